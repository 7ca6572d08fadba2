/**
 * MiCA: a LoRA that trains A alone, behind the directions that matter least to the weight (2026,
 * arXiv:2604.01694).
 *
 * @module
 */
import { ConfigError } from "../../errors.ts";
import type { Site } from "../../model/site.ts";
import { flatMatrix, trailingSvd, transposed } from "../linalg.ts";

/** Refuses a rank that the weight does not have. */
export function checkMicaRank({ path, inFeatures, outFeatures }: Site, r: number): void {
  const most = Math.min(inFeatures, outFeatures);
  if (r <= most) return;
  throw new ConfigError(
    "CONFIG_MICA_RANK",
    `MiCA requires r <= min(inFeatures, outFeatures), and r is ${r} for ${path}, whose weight has the dimensions ${outFeatures} and ${inFeatures}. Lower r or rankPattern.`,
    { path, r, most },
  );
}

/**
 * B [out, r] of a site: the left singular vectors of the smallest singular values.
 *
 * @param site A linear layer or an embedding.
 * @param weight Its weight as `InitSource` gives it.
 * @param r How many.
 */
export function micaFactor(
  { kind, inFeatures, outFeatures }: Site,
  weight: Float32Array,
  r: number,
): Float32Array<ArrayBuffer> {
  const matrix = kind === "embedding"
    ? transposed(flatMatrix(weight, { rows: inFeatures, columns: outFeatures }))
    : flatMatrix(weight, { rows: outFeatures, columns: inFeatures });
  return Float32Array.from(transposed(trailingSvd(matrix, r).u).data);
}
