/**
 * What FRoD begins with against files of PEFT. Which bases it has depends on rounding; what they make
 * together does not.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { weightOutIn } from "../../lib/adapters/lazy-leaves.ts";
import { getPeftModel } from "../../lib/adapters/inject.ts";
import { leavesAt } from "../../lib/adapters/parts.ts";
import { openSafetensors } from "../../lib/io/safetensors.ts";
import {
  matrixOf,
  matrixProduct,
  rowProducts,
  scaledRows,
  transposed,
} from "../../lib/methods/linalg.ts";
import { toFloat32 } from "../../lib/tensor/convert.ts";
import { goldenBase } from "../adapters/bases.ts";
import { expectedOf, goldenCases, peftConfig } from "../golden-case.ts";
import { apart } from "../steps.ts";

for (const golden of goldenCases.filter(({ peftType }) => peftType === "FROD")) {
  if (golden.adapters.length) continue;
  Deno.test(`FRoD ${golden.name}: patterns are PEFT's, and bases give the weights`, async () => {
    const { record: { config } } = await expectedOf(golden);
    const base = await goldenBase(golden.kind);
    const { adapters } = getPeftModel(base, peftConfig("FROD", config!));
    const adapter = adapters.get("default")!, shared = leavesAt(adapter, "shared")!;
    const { tensors } = await openSafetensors(`${golden.folder}adapter_model.safetensors`);
    for (const [leaf, made] of Object.entries(shared)) {
      const found = tensors.get(`base_model.${leaf}`)!;
      assertEquals(made.shape, found.shape);
      if (!leaf.startsWith("frod_V")) {
        assertEquals([...await toFloat32(made)], [...await toFloat32(found)], leaf);
        continue;
      }
      const [a, b] = [await matrixOf(made), await matrixOf(found)];
      assert(apart(rowProducts(a, a).data, rowProducts(b, b).data) < 1e-5, leaf);
    }
    for (const [id, { place }] of adapter.parts) {
      if (place.kind !== "site") continue;
      const { frod_U, frod_lambda_l } = leavesAt(adapter, id)!;
      const kind = Object.keys(shared).find((leaf) =>
        leaf.startsWith("frod_V.") && id.replaceAll(".", "_").endsWith(leaf.slice(7))
      )!;
      const right = scaledRows(
        transposed(await matrixOf(shared[kind])),
        await toFloat32(frod_lambda_l),
      );
      const weight = await weightOutIn(base, base.sites.get(id)!);
      assert(apart(matrixProduct(await matrixOf(frod_U), right).data, weight) < 1e-5, id);
    }
  });
}
