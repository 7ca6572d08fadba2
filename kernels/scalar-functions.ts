/**
 * Scalar functions in WGSL that are accurate to a few units in the last place on every adapter, which the built-in ones are not (WGSL allows `sin`
 * an absolute error of 2⁻¹¹, `log` one of 2⁻²¹ near 1, `tanh` what cancellation leaves). The polynomials are least-squares fits reweighted towards minimax.
 *
 * @module
 */

// NaN is told by its bits, as adapters may take it for granted that no comparison meets one.

/** eˣ: x = k·ln 2 + r, a polynomial for eʳ, and 2ᵏ in two factors so that results below 2⁻¹²⁶ and above 2¹²⁷ come out right. */
export const EXP = `
fn isNaN(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn accurateExp(x: f32) -> f32 {
  let t = clamp(x, -104.0, 89.0);
  let k = round(t * 1.4426950408889634);
  let r = (t - k * 0.693115234375) - k * 3.1946184945309415e-05;
  let p = ((((0.0013950599823147058 * r + 0.008368954062461853) * r + 0.04166620597243309) * r
    + 0.166665181517601) * r + 0.5) * (r * r) + r + 1.0;
  let i = i32(k);
  let half = i >> 1u;
  let y = p * bitcast<f32>((half + 127) << 23u) * bitcast<f32>((i - half + 127) << 23u);
  return select(y, x, isNaN(x));
}
`;

/** Natural logarithm: x = m·2ᵏ with m near 1, and a polynomial for log m. */
export const LOG = `
fn accurateLog(x: f32) -> f32 {
  let bits = bitcast<i32>(x);
  let k = (bits - 0x3f3504f3) >> 23u;
  let f = bitcast<f32>(bits - (k << 23u)) - 1.0;
  let p = (((((((0.06915368139743805 * f - 0.11789807677268982) * f + 0.11872976273298264) * f
    - 0.1238434836268425) * f + 0.14218658208847046) * f - 0.16669251024723053) * f
    + 0.20002226531505585) * f - 0.24999986588954926) * f + 0.3333331048488617;
  let z = f * f;
  let y = ((p * f * z + f32(k) * 3.1946184945309415e-05) - 0.5 * z) + f + f32(k) * 0.693115234375;
  // What is not positive, finite and normal is left to the built-in function.
  return select(log(x), y, x >= 1.1754943508222875e-38 && x <= 3.4028234663852886e38);
}
`;

/** Hyperbolic tangent. */
export const TANH = `${EXP}
fn accurateTanh(x: f32) -> f32 {
  let z = x * x;
  let small = x + x * z * ((((-0.00590586056932807 * z + 0.020805377513170242) * z
    - 0.05378668010234833) * z + 0.13331958651542664) * z - 0.33333298563957214);
  let large = sign(x) * (1.0 - 2.0 / (accurateExp(2.0 * abs(x)) + 1.0));
  return select(large, small, z < 0.36);
}
`;

/** The error function: an odd polynomial below 1, and 1 − exp(polynomial) above. */
export const ERF = `${EXP}
fn accurateErf(x: f32) -> f32 {
  let a = abs(x);
  let z = x * x;
  let small = x + x * ((((((7.889119297033176e-05 * z - 0.0008020841050893068) * z
    + 0.005189535208046436) * z - 0.026854444295167923) * z + 0.11283600330352783) * z
    - 0.3761262595653534) * z + 0.12837916612625122);
  let t = min(a, 4.0);
  let p = (((((((-2.5132672476502194e-07 * t + 2.5314810045529157e-05) * t - 0.0004637880192603916) * t
    + 0.004282382782548666) * t - 0.025373555719852448) * t + 0.10863899439573288) * t
    + 0.6330395936965942) * t + 1.129661202430725) * t - 0.0002043598797172308;
  let y = select(sign(x) * (1.0 - accurateExp(-p)), small, a < 1.0);
  return select(y, x, isNaN(x));
}
`;

/** Polynomials for sine and cosine up to π/4, and a reduction by π/2 in three parts that is good for angles up to about 25000. */
const SIN_COS = `
fn sinCosReduced(x: f32, quarter: i32) -> f32 {
  let k = round(x * 0.6366197723675814);
  let r = ((x - k * 1.5703125) - k * 0.00048351287841796875) - k * 3.139164787e-07;
  let z = r * r;
  let s = r + r * z * (((2.718121777434135e-06 * z - 0.00019839315791614354) * z
    + 0.008333329111337662) * z - 0.1666666716337204);
  let c = 1.0 - 0.5 * z + z * z * ((2.443660923745483e-05 * z - 0.0013887352542951703) * z
    + 0.04166664555668831);
  let q = (i32(k) + quarter) & 3;
  let y = select(s, c, (q & 1) == 1);
  return select(y, -y, q >= 2);
}
`;

/** Sine. */
export const SIN = `${SIN_COS}
fn accurateSin(x: f32) -> f32 { return sinCosReduced(x, 0); }
`;

/** Cosine. */
export const COS = `${SIN_COS}
fn accurateCos(x: f32) -> f32 { return sinCosReduced(x, 1); }
`;

/** aᵇ, where a negative a needs a whole b. */
export const POW = `${EXP}${LOG}
fn accuratePow(a: f32, b: f32) -> f32 {
  let magnitude = accurateExp(b * accurateLog(abs(a)));
  let odd = b - 2.0 * floor(b * 0.5) == 1.0;
  let signed = select(magnitude, -magnitude, a < 0.0 && odd);
  // 0⁰ and the square, which gradients and norms are made of, are exact.
  return select(select(signed, a * a, b == 2.0), 1.0, b == 0.0);
}
`;

/** The hash behind dropout masks (see `dropoutMask` in lib/ops/dropout-mask.ts). */
export const DROPOUT_HASH = `
fn dropoutMix(seed: u32) -> u32 {
  var x = seed;
  x ^= x >> 16u;
  x *= 0x7feb352du;
  x ^= x >> 15u;
  x *= 0x846ca68bu;
  x ^= x >> 16u;
  return x;
}
fn dropoutHash(index: u32, stream: u32, seed: u32) -> u32 {
  return dropoutMix(index ^ dropoutMix(stream ^ dropoutMix(seed)));
}
`;

/**
 * Function declarations without repetitions: texts may contain the same function as others do.
 *
 * @param texts WGSL texts that hold nothing but `fn` declarations.
 */
export function joinFunctions(texts: Iterable<string>): string {
  const found = new Set<string>();
  for (const text of texts) {
    let start = 0, depth = 0;
    for (let i = 0; i < text.length; i++) {
      if (text[i] === "{") depth++;
      if (text[i] !== "}" || --depth > 0) continue;
      found.add(text.slice(start, i + 1).trim());
      start = i + 1;
    }
  }
  return [...found].join("\n");
}
