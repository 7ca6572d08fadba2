/**
 * Orthogonal wavelets: Daubechies' `db1` … `db38`, symlets `sym2` … `sym20` and coiflets `coif1` …
 * `coif17` (Daubechies, 1992, Ten Lectures on Wavelets), by their low-pass filter h.
 *
 * What the filter does to a wave of frequency ω follows from its number of vanishing moments N, and
 * from one more choice in each family. The squares |H|² of the first two are cos²ᴺ(ω/2)·P(sin²(ω/2)),
 * P(y) = Σ C(N−1+k, k)·yᵏ for k < N; they differ in phase.
 *
 * @module
 */

/** Names of all wavelets. */
export const WAVELETS: readonly string[] =
  ([["db", 1, 38], ["sym", 2, 20], ["coif", 1, 17]] as const)
    .flatMap(([family, first, last]) =>
      Array.from({ length: last - first + 1 }, (_, i) => `${family}${first + i}`)
    );

/** The number of elements of a wavelet's filters. */
export function filterLength(wavelet: string): number {
  return orderOf(wavelet) * (wavelet.startsWith("coif") ? 6 : 2);
}

function orderOf(wavelet: string): number {
  return Number(/\d+/.exec(wavelet)![0]);
}

/**
 * The filters that put a signal together from its two halves: low-pass, then high-pass, each
 * {@link filterLength} long.
 */
export function synthesisFilters(wavelet: string): Float32Array<ArrayBuffer> {
  const order = orderOf(wavelet), length = filterLength(wavelet);
  const low = wavelet === "coif4" ? Float64Array.from(COIF4, (x) => x * UNIT) : filterOf(
    length,
    wavelet.startsWith("db")
      ? minimumPhase(order)
      : wavelet.startsWith("sym")
      ? leastAsymmetric(order)
      : coiflet(order),
  );
  const high = low.toReversed().map((x, i) => i % 2 ? -x : x);
  return new Float32Array([...low, ...high]);
}

/** Real and imaginary part of what a filter with the sum 1 does to a wave of some frequency. */
type Response = (frequency: number) => readonly [number, number];

/** Frequencies that a filter is known at, many more than it has elements. */
const POINTS = 512;
const FREQUENCIES = Array.from({ length: POINTS }, (_, k) => 2 * Math.PI * (k / POINTS - 0.5));

/** The elements of a filter with the sum √2, by the inverse Fourier transform. */
function filterOf(length: number, response: Response): Float64Array {
  const filter = new Float64Array(length);
  for (const w of FREQUENCIES) {
    const [re, im] = response(w);
    for (let j = 0; j < length; j++) {
      filter[j] += (re * Math.cos(j * w) - im * Math.sin(j * w)) * Math.SQRT2 / POINTS;
    }
  }
  return filter;
}

/** C(N−1+k, k) for k < N. */
function binomials(order: number): readonly number[] {
  const all = [1];
  for (let k = 1; k < order; k++) all.push(all[k - 1] * (order - 1 + k) / k);
  return all;
}

/** P of the sine squared of half a frequency. */
function polynomial(order: number): (frequency: number) => number {
  const coefficients = binomials(order);
  return (w) => coefficients.reduceRight((sum, c) => sum * Math.sin(w / 2) ** 2 + c, 0);
}

/** A response with |H|² as above and this phase. */
function withPhase(order: number, phase: (frequency: number) => number): Response {
  const p = polynomial(order);
  return (w) => {
    const size = Math.cos(w / 2) ** order * Math.sqrt(p(w)), angle = phase(w) - order * w / 2;
    return [size * Math.cos(angle), size * Math.sin(angle)];
  };
}

/** Daubechies' own: the phase that follows from log|H|, by the cepstrum. */
function minimumPhase(order: number): Response {
  const p = polynomial(order), logs = FREQUENCIES.map((w) => Math.log(p(w)) / 2);
  const cepstrum = Array.from(
    { length: POINTS / 2 },
    (_, n) => logs.reduce((sum, x, k) => sum + x * Math.cos(n * FREQUENCIES[k]), 0) / POINTS,
  );
  return withPhase(
    order,
    (w) => cepstrum.reduce((angle, c, n) => angle - 2 * c * Math.sin(n * w), 0),
  );
}

/** Which groups of zeros of a symlet, from `sym2` on, lie outside the unit circle, as bits. */
const OUTSIDE = [
  0,
  0,
  2,
  1,
  5,
  1,
  10,
  6,
  21,
  6,
  21,
  28,
  44,
  28,
  89,
  142,
  333,
  116,
  357,
];

/** Symlets: zeros inside and outside the unit circle such that the phase is nearly linear. */
function leastAsymmetric(order: number): Response {
  const outside = OUTSIDE[order - 2];
  // A zero z stands for a root y = (2 − z − 1/z)/4 of P, and takes its conjugate along.
  const zeros = rootsOf(binomials(order)).filter(([, im]) => im > -1e-9)
    .sort(([a], [b]) => a - b).map(([re, im]) => insideOf([1 - 2 * re, im < 1e-9 ? 0 : -2 * im]));
  return withPhase(order, (w) =>
    zeros.reduce((angle, [a, b], i) => {
      const turn = (b: number) =>
        Math.atan2(
          a * Math.sin(w) - b * Math.cos(w),
          1 - a * Math.cos(w) - b * Math.sin(w),
        );
      const own = b ? turn(b) + turn(-b) : turn(0), degree = b ? 2 : 1;
      return angle + (outside >> i & 1 ? -own - degree * w : own);
    }, 0));
}

type Complex = readonly [re: number, im: number];

/** Of the solutions of z + 1/z = 2c the one inside the unit circle. */
function insideOf([re, im]: Complex): Complex {
  // c² − 1, and its square root.
  const [x, y] = [re * re - im * im - 1, 2 * re * im], size = Math.hypot(x, y);
  const root = Math.sqrt((size + x) / 2), other = Math.sqrt((size - x) / 2) * (y < 0 ? -1 : 1);
  const [a, b] = [[re + root, im + other], [re - root, im - other]] as const;
  return Math.hypot(...a) < 1 ? a : b;
}

/** All roots of a polynomial, from the constant on, by the iteration of Weierstrass. */
function rootsOf(coefficients: readonly number[]): readonly Complex[] {
  const degree = coefficients.length - 1, lead = coefficients[degree];
  const times = ([a, b]: Complex, [c, d]: Complex): Complex => [a * c - b * d, a * d + b * c];
  const over = ([a, b]: Complex, [c, d]: Complex): Complex => {
    const size = c * c + d * d;
    return [(a * c + b * d) / size, (b * c - a * d) / size];
  };
  let roots = Array.from({ length: degree }, (_, k): Complex => {
    const angle = 2 * Math.PI * k / degree + 0.4;
    return [0.6 * Math.cos(angle), 0.6 * Math.sin(angle)];
  });
  for (let step = 0; step < 100; step++) {
    roots = roots.map((z, i) => {
      const value = coefficients.reduceRight<Complex>((sum, c) => {
        const [re, im] = times(sum, z);
        return [re + c / lead, im];
      }, [0, 0]);
      const others = roots.reduce<Complex>(
        (product, r, j) => i === j ? product : times(product, [z[0] - r[0], z[1] - r[1]]),
        [1, 0],
      );
      const [re, im] = over(value, others);
      return [z[0] - re, z[1] - im];
    });
  }
  return roots;
}

/**
 * Coiflets, whose scaling function has vanishing moments too: cos²ᴷ(ω/2)·P(sin²(ω/2)) +
 * sin²ᴷ(ω)·Σ gₙ·e^(−inω), n < 2K, with numbers g that make it orthogonal; 2K elements lie before 0.
 */
function coiflet(order: number): Response {
  const p = polynomial(order), g = COIFLETS[order - 1];
  return (w) => {
    const smooth = Math.cos(w / 2) ** (2 * order) * p(w), rest = Math.sin(w) ** (2 * order);
    const at = (n: number) => (n + 2 * order) * w;
    return [
      g.reduce((sum, x, n) => sum + rest * x * UNIT * Math.cos(at(n)), smooth * Math.cos(at(0))),
      g.reduce((sum, x, n) => sum - rest * x * UNIT * Math.sin(at(n)), -smooth * Math.sin(at(0))),
    ];
  };
}

const UNIT = 1e-9;

/** The numbers g of {@link coiflet}, as far as they are not 0. */
// deno-fmt-ignore
const COIFLETS: readonly (readonly number[])[] = [
  [205718914, 44281086],
  [185401548, 30877792, -20627254, -8152086],
  [171674795, 22799891, -31299101, -11703729, 3212338, 1565807],
  [],
  [153563671, 13799482, -41616894, -14403644, 9516898, 4301181, -1503857, -797078, 117576, 69540],
  [147061521, 11000242, -44334358, -14907958, 12023726, 5284151, -2546393, -1313009, 358430,
    206575, -24581, -15377],
  [141597676, 8810446, -46232733, -15166341, 14138567, 6067052, -3612607, -1819110, 694108,
    391092, -87184, -53406, 5304, 3465],
  [136906761, 7043115, -47588952, -15276491, 15928269, 6694652, -4650153, -2293335, 1093624,
    603967, -190118, -114294, 21453, 13773, -1170, -791],
  [132811688, 5581936, -48570667, -15293597, 17452102, 7201859, -5634726, -2727947, 1531817,
    830881, -329698, -194868, 52038, 32886, -5316, -3544, 263, 183],
  [129188743, 4350510, -49284956, -15250660, 18758482, 7614998, -6556646, -3121887, 1990166,
    1062033, -499896, -290918, 98570, 61398, -14201, -9341, 1323, 910, -60, -43],
  [125948292, 3296420, -49803172, -15168307, 19886008, 7953845, -7413783, -3477081, 2455644,
    1291043, -694297, -398326, 161010, 98956, -29189, -18962, 3861, 2624, -330, -233, 14, 10],
  [123023434, 2382410, -50174526, -15059883, 20865309, 8233362, -8207819, -3796652, 2919342,
    1513920, -906977, -513511, 238347, 144671, -51140, -32837, 8561, 5757, -1045, -731, 83, 60,
    -3, -2],
  [120362995, 1581207, -50433934, -14934271, 21720775, 8464984, -8942254, -4084063, 3375314,
    1728289, -1132830, -633543, 329052, 197408, -80453, -51097, 16024, 10666, -2488, -1723, 282,
    202, -21, -15, 1, 1],
  [117927005, 872347, -50606767, -14797508, 22471957, 8657555, -9621340, -4342709, 3819702,
    1932853, -1367623, -756101, 431377, 255973, -117158, -73645, 26714, 17612, -4957, -3401,
    717, 509, -76, -55, 5, 4],
  [115683688, 240149, -50711840, -14653777, 23134650, 8817995, -10249517, -4575743, 4250109,
    2127020, -1607925, -879398, 543551, 319216, -161017, -100232, 40954, 26755, -8734, -5942,
    1516, 1067, -205, -149, 20, 15, -1, -1],
  [113607392, -327627, -50763346, -14506011, 23721723, 8951775, -10831116, -4786011, 4665151,
    2310652, -1851001, -1002081, 663887, 386087, -211612, -130511, 58930, 38166, -14069, -9494,
    2815, 1968, -458, -330, 58, 43, -5, -4],
  [111677128, -840684, -50772160, -14356288, 24243749, 9063268, -11370214, -4976044, 5064144,
    2483902, -2094701, -1123145, 790837, 455661, -268417, -164088, 80710, 51838, -21165, -14172,
    4757, 3300, -895, -640, 138, 101, -16, -12, 1, 1],
];

/** PEFT's filter of this name, which is no coiflet's: adapters that were trained with it need it. */
// deno-fmt-ignore
const COIF4: readonly number[] = [
  892314, -1629492, -7346168, 16066783, 26792362, -73142904, -48770768, 427477884, 784249170,
    435461342, -61553658, -91765420, 28115660, 24945239, -10417175, -3270273, 2016678, 660011,
    -179606, -159882, 43110, 17914, -2241, -1590,
];
