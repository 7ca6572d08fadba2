/**
 * CorDA: which part of a weight a LoRA takes over, by what goes into the layer (Yang et al., 2024,
 * arXiv:2406.05223).
 *
 * @module
 */
import { CholeskyDecomposition, Matrix } from "ml-matrix";
import { ConfigError, ValueError } from "../../errors.ts";
import type { Site } from "../../model/site.ts";
import { toFloat32 } from "../../tensor/convert.ts";
import { type Tensor, tensor } from "../../tensor/tensor.ts";
import type { Calibration, CalibrationNeed } from "../calibration.ts";
import type { CordaConfig } from "./corda-config.ts";
import {
  type FlatMatrix,
  flatMatrix,
  leadingSvd,
  matrixProduct,
  matrixTensor,
  norm,
  scaledRows,
  trailingSvd,
  transposed,
} from "../linalg.ts";

/** Where LoRAs with `initLoraWeights: "corda"` begin, as `preprocessCorda` finds it. */
export interface CordaCalibration extends Calibration {
  /** `"corda"`. */
  readonly init: "corda";
  /**
   * By module path, the part of the weight that the adapter takes over: `U_WC · diag(S_WC) ·
   * V_WCᵀ`, with `S_WC` [r], `U_WC` [out, r] and `V_WC` [in, r] in f32.
   */
  readonly sites: ReadonlyMap<string, Readonly<Record<string, Tensor>>>;
  /**
   * Covariances [in, in] of what goes into the modules, by module path, where they were to be kept
   * (`pruneTemporaryFields: false`).
   */
  readonly covariances?: ReadonlyMap<string, Tensor>;
}

/** PEFT's names of the three parts. */
export const CORDA_PARTS = ["S_WC", "U_WC", "V_WC"] as const;

/** Shapes of the three parts at a site. */
export function cordaShapes(
  { inFeatures, outFeatures }: Site,
  r: number,
): Readonly<Record<typeof CORDA_PARTS[number], readonly number[]>> {
  return { S_WC: [r], U_WC: [outFeatures, r], V_WC: [inFeatures, r] };
}

/**
 * The part of a weight W that an adapter takes over: with U·S·Vᵀ for the singular value
 * decomposition of W·C, `r` columns of U·S·(Vᵀ·C⁻¹).
 *
 * PEFT inverts C. As U·S·Vᵀ·C⁻¹ is W itself, the rows of Vᵀ·C⁻¹ are Uᵀ·W divided by S, which is
 * exact however small the eigenvalues of C are.
 *
 * @param layer The site, its weight [out, in], and the covariance of its inputs [in, in] as
 * {@link dampedCovariance} gives it.
 * @param options How many columns, and by which method.
 * @throws {ConfigError} where the weight has fewer than `r`.
 */
export function cordaEigens(
  layer: { readonly site: Site; readonly weight: FlatMatrix; readonly covariance: FlatMatrix },
  options: { readonly r: number; readonly method: CordaConfig["cordaMethod"] },
): Readonly<Record<string, Tensor>> {
  const { site, weight, covariance } = layer;
  const { r, method } = options;
  checkCordaRank(site, r);
  const product = matrixProduct(weight, covariance);
  const { u, s } = method === "ipm" ? leadingSvd(product, r) : trailingSvd(product, r);
  // What is beyond the accuracy of the decomposition has no direction.
  const nothing = 1e-14 * norm(product.data);
  const inverse = s.map((value) => value > nothing ? 1 / value : 0);
  return {
    S_WC: tensor(Float32Array.from(s)),
    U_WC: matrixTensor(transposed(u)),
    V_WC: matrixTensor(transposed(scaledRows(matrixProduct(u, weight), inverse))),
  };
}

/** Refuses a rank that the weight does not have. */
export function checkCordaRank({ path, inFeatures, outFeatures }: Site, r: number): void {
  const most = Math.min(inFeatures, outFeatures);
  if (r <= most) return;
  throw new ConfigError(
    "CONFIG_CORDA_RANK",
    `The rank ${r} for ${path} is above ${most}, the smaller dimension of its weight [${outFeatures}, ${inFeatures}], ` +
      `and initLoraWeights "corda" cannot take more columns than there are. Lower r or rankPattern.`,
    { path, r, most },
  );
}

/**
 * The covariance with a share of its mean variance, from 0.01 on, added to its diagonal, so that it
 * can be inverted. The share is doubled until it can, which no matrix XᵀX needs; PEFT doubles it
 * until a 32-bit inverse is exact to 0.05.
 *
 * @param covariance The mean of XᵀX over samples X, [n, n].
 * @param path The module, for messages.
 * @throws {ValueError} for what is no covariance.
 */
export function dampedCovariance(covariance: FlatMatrix, path: string): FlatMatrix {
  const { rows: n, data } = covariance;
  let trace = 0;
  for (let i = 0; i < n; i++) trace += data[i * n + i];
  if (!(trace > 0) || !data.every(Number.isFinite)) {
    throw new ValueError(
      "CALIBRATION_COVARIANCE",
      `The covariance of what goes into ${path} is no covariance: ${
        trace === 0 ? "its diagonal is zero" : "it holds NaN, infinity or negative variances"
      }. Check the weights of the model and the batches, or the file that it was read from.`,
      { path, trace },
    );
  }
  for (let share = 0.01;; share *= 2) {
    const fixed = data.slice();
    for (let i = 0; i < n; i++) fixed[i * n + i] += share * trace / n;
    const matrix = Matrix.from1DArray(n, n, fixed as never);
    if (new CholeskyDecomposition(matrix).isPositiveDefinite()) {
      return { rows: n, columns: n, data: fixed };
    }
  }
}

/** What CorDA needs of a calibration. */
export const CORDA: CalibrationNeed = {
  init: "corda",
  by: "preprocessCorda",
  of: "what goes into the layers",
  shapes: cordaShapes,
  initial: cordaShapes,
};

/**
 * The factors that an adapter begins with at a site: A [r, in] and B [out, r], so that `scale · B ·
 * A` is the part that it takes over.
 *
 * @throws {ValueError} for NaN and infinity.
 */
export async function cordaFactors(
  parts: Readonly<Record<string, Tensor>>,
  at: { readonly site: Site; readonly scale: number },
): Promise<{ readonly a: FlatMatrix; readonly b: FlatMatrix }> {
  const { site, scale } = at;
  const [s, u, v] = await Promise.all(CORDA_PARTS.map(async (part) => {
    const values = await toFloat32(parts[part]);
    if (values.every(Number.isFinite)) return values;
    throw new ValueError(
      "CALIBRATION_VALUE",
      `${part} of ${site.path} in the calibration holds NaN or infinity. Make it again with preprocessCorda.`,
      { path: site.path, part },
    );
  }));
  const roots = Array.from(s, (value) => Math.sqrt(value / scale));
  const rowsOf = (values: Float32Array, rows: number) =>
    scaledRows(transposed(flatMatrix(values, { rows, columns: s.length })), roots);
  return { a: rowsOf(v, site.inFeatures), b: transposed(rowsOf(u, site.outFeatures)) };
}
