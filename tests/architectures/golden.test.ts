import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { architectureOf } from "../../lib/architectures/mod.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import type { Tensor } from "../../lib/tensor/tensor.ts";
import cases from "../golden/cases.json" with { type: "json" };
import { testOnceOnWebGpu } from "../devices.ts";

/** The bound on logits, relative to the largest. */
const LOGITS = 2e-5;

const root = new URL("../golden/base/", import.meta.url).pathname;

async function difference(
  got: Tensor,
  want: Tensor,
  mask?: ArrayLike<number | bigint>,
): Promise<number> {
  const [a, b] = [await got.data(), await want.data()] as Float32Array[];
  assertEquals(a.length, b.length);
  const width = want.shape[want.shape.length - 1];
  let largest = 0, apart = 0;
  for (let i = 0; i < b.length; i++) {
    if (mask && Number(mask[Math.floor(i / width)]) === 0) continue;
    largest = Math.max(largest, Math.abs(b[i]));
    apart = Math.max(apart, Math.abs(a[i] - b[i]));
  }
  return apart / largest;
}

for (const { kind, rope_only } of cases.bases) {
  testOnceOnWebGpu(`${kind}: logits of transformers`, async (device) => {
    const model = await loadModel(`${root}${kind}`, { device });
    const { tensors } = await openSafetensors(`${root}${kind}/expected.safetensors`);
    const get = (name: string) => {
      const tensor = tensors.get(name);
      assert(tensor, `${name} in ${kind}`);
      return tensor;
    };
    if (rope_only) {
      for (const part of ["short", "long"]) {
        const { logits } = await forward(model, { inputIds: get(`${part}.input_ids`) });
        const apart = await difference(logits, get(`${part}.logits`));
        assert(apart < LOGITS, `${part}: ${apart}`);
      }
      return;
    }
    const { logits, loss } = await forward(model, {
      inputIds: get("in.input_ids"),
      attentionMask: get("in.attention_mask"),
      labels: get("in.labels"),
    });
    const apart = await difference(logits, get("base.logits"));
    assert(apart < LOGITS, `right-padded: ${apart}`);
    const expected = Number((await get("base.loss").data())[0]);
    assertAlmostEquals(loss!, expected, 1e-5 * expected);

    const mask = get("left.attention_mask");
    const left = await forward(model, {
      inputIds: get("left.input_ids"),
      attentionMask: mask,
      positionIds: get("left.position_ids"),
    });
    const leftApart = await difference(
      left.logits,
      get("left.base.logits"),
      await mask.data() as BigInt64Array,
    );
    assert(leftApart < LOGITS, `left-padded: ${leftApart}`);
  });
}

Deno.test("every golden base has an architecture", async () => {
  for (const { kind } of cases.bases) {
    architectureOf(JSON.parse(await Deno.readTextFile(`${root}${kind}/config.json`)));
  }
});
