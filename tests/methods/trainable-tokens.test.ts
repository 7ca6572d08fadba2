import { assert, assertEquals } from "@std/assert";
import { forward } from "../../lib/adapters/forward.ts";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { withLeaves } from "../../lib/adapters/leaves.ts";
import { mergeAndUnload } from "../../lib/adapters/merge/merge.ts";
import type { AnyModel } from "../../lib/adapters/peft-model.ts";
import { setAdapter } from "../../lib/adapters/select.ts";
import { trainableTokensConfig } from "../../lib/methods/trainable-tokens.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { goldenBase } from "../adapters/bases.ts";
import { testOnDevices } from "../devices.ts";
import { fill } from "../golden-values.ts";
import { apart } from "../steps.ts";

testOnDevices(
  "rows of several adapters stand together at an embedding and its tied head",
  async (device) => {
    const base = await goldenBase("llama_tied", device);
    const config = (tokenIndices: readonly number[]) => trainableTokensConfig({ tokenIndices });
    const named = (of: string) => `a0.model.embed_tokens.trainable_tokens_delta${of}`;
    const [width] = base.shapes.get("model.norm.weight")!;
    const rows = async (names: readonly string[]) =>
      tensor(
        Float32Array.from((await Promise.all(names.map((n) => fill(n, [2, width]).data())))
          .flatMap((all) => [...all as Float32Array])),
        { shape: [2 * names.length, width] },
      );
    const one = withLeaves(
      getPeftModel(base, config([5, 41, 12, 3])),
      new Map([[named(""), await rows(["style", "facts"])]]),
    );
    let two = getPeftModel(base, config([5, 41]), { adapterName: "style" });
    two = addAdapter(two, "facts", config([12, 3]));
    for (const name of ["style", "facts"]) {
      two = withLeaves(
        { ...setAdapter(two, name), trainable: [name] },
        new Map([[named(""), await rows([name])]]),
      );
    }
    const logits = async (model: AnyModel) => {
      const { logits } = await forward(model, { inputIds: [[5, 7, 12, 3, 41, 9]] });
      return logits.data() as Promise<Float32Array>;
    };
    const wanted = await logits(one), both = setAdapter(two, ["style", "facts"]);
    assert(apart(await logits(base), wanted) > 0.1);
    assert(apart(await logits(both), wanted) < 2e-5);
    const merged = mergeAndUnload(both);
    assert(apart(await logits(merged), wanted) < 2e-5);
    assertEquals([merged.tied.size, merged.config.tie_word_embeddings], [1, true]);
  },
);
