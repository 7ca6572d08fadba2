/**
 * What the WebGPU libraries are compared by, and how each one is timed. Runs in a process of its own per library, with no
 * import of Graft's but its random numbers, so that the others are measured without it.
 *
 * @module
 */
import { randomNormal } from "../../lib/tensor/random.ts";

/** One product of two f32 matrices: `a` [M, K] (stored [K, M] where transposed) times `b` [K, N] (stored [N, K]). */
export interface MatmulWork {
  /** Such as `matmul 512×1024×1024`. */
  readonly name: string;
  /** M, K and N. */
  readonly size: readonly [number, number, number];
  /** Whether `a` is stored transposed. */
  readonly transposeA: boolean;
  /** Whether `b` is stored transposed. */
  readonly transposeB: boolean;
}

/** A matrix and how it is stored. */
export interface Matrix {
  /** Rows and columns. */
  readonly shape: readonly [number, number];
  /** Row-major contents. */
  readonly data: Float32Array<ArrayBuffer>;
}

const matmul = (size: readonly [number, number, number], transpose = ""): MatmulWork => ({
  name: `matmul ${size.join("×")}${transpose && ` ${transpose}`}`,
  size,
  transposeA: transpose === "AᵀB",
  transposeB: transpose === "ABᵀ",
});

/** A square-ish product, and the three of a training step at SmolLM2-135M's shape and 128 tokens. */
export const MATMULS: readonly MatmulWork[] = [
  matmul([512, 1024, 1024]),
  matmul([128, 576, 1536]),
  matmul([128, 576, 1536], "ABᵀ"),
  matmul([576, 128, 1536], "AᵀB"),
];

/** The two matrices of a product, as they are stored. */
export function matrices(work: MatmulWork): { readonly a: Matrix; readonly b: Matrix } {
  const [m, k, n] = work.size;
  const matrix = (rows: number, columns: number, stream: number): Matrix => ({
    shape: [rows, columns],
    data: randomNormal(rows * columns, { seed: 1, stream }) as Float32Array<ArrayBuffer>,
  });
  return {
    a: work.transposeA ? matrix(k, m, 0) : matrix(m, k, 0),
    b: work.transposeB ? matrix(n, k, 1) : matrix(k, n, 1),
  };
}

/** Name of the training step's measurement. */
export const MLP = "training step, MLP 576→1536→576";

/** Tokens, width and inner width of the network. */
export const MLP_SIZE = { tokens: 128, width: 576, inner: 1536 } as const;

/** Step length of gradient descent: the loss falls, and the change of the weights is far above rounding. */
export const LEARNING_RATE = 0.5;

/**
 * A network relu(x·W₁)·W₂ without biases, its data and what it should give; the loss is the mean of squared differences.
 */
export function network(): Readonly<Record<"x" | "y" | "w1" | "w2", Matrix>> {
  const { tokens, width, inner } = MLP_SIZE;
  const matrix = (shape: readonly [number, number], stream: number, std: number): Matrix => ({
    shape,
    data: randomNormal(shape[0] * shape[1], { seed: 2, stream, std }) as Float32Array<ArrayBuffer>,
  });
  return {
    x: matrix([tokens, width], 0, 1),
    y: matrix([tokens, width], 1, 1),
    w1: matrix([width, inner], 2, Math.sqrt(2 / width)),
    w2: matrix([inner, width], 3, Math.sqrt(1 / inner)),
  };
}

/** Floating-point operations of one run of a measurement; the training step has five products of one size. */
export function flopsOf(name: string): number {
  const work = MATMULS.find((m) => m.name === name);
  const [m, k, n] = work?.size ?? [MLP_SIZE.tokens, MLP_SIZE.width, MLP_SIZE.inner];
  return 2 * m * k * n * (work ? 1 : 5);
}

/** A training step on a device. */
export interface TrainingRun {
  /** Puts the weights back to where they started. */
  reset(): Promise<void>;
  /** Takes one step, forward, backward and update, and gives the loss before it. The weights stay on the device. */
  step(): Promise<number>;
  /** Reads W₁ and W₂. */
  weights(): Promise<readonly [Float32Array, Float32Array]>;
}

/** A library that takes part. */
export interface Contestant {
  /** Its name, which names its files too. */
  readonly name: string;
  /** Versions of its packages. */
  readonly versions: Readonly<Record<string, string>>;
  /** Puts two matrices on the device; each call of what it returns multiplies them and reads the product. */
  matmul(
    work: MatmulWork,
    operands: { readonly a: Matrix; readonly b: Matrix },
  ): Promise<() => Promise<Float32Array>>;
  /** Puts a {@linkcode network} on the device. */
  train(parts: ReturnType<typeof network>): Promise<TrainingRun>;
}

/** What a contestant's process leaves in `<name>.json`. */
export interface Timings {
  /** The library. */
  readonly name: string;
  /** Versions of its packages. */
  readonly versions: Readonly<Record<string, string>>;
  /** Milliseconds of each run, by measurement. */
  readonly milliseconds: Readonly<Record<string, readonly number[]>>;
}

/** Where a measurement's output is, as f32: the product, or the losses of the steps and then the change of W₁ and W₂. */
export function outputPath(folder: string, contestant: string, measurement: string): string {
  return `${folder}/${contestant} ${measurement}.f32`;
}

const WARM_UP = 3;

/**
 * Times a contestant, writes its timings and outputs into the folder that is the process's first argument, and ends the process; the
 * second argument is the number of runs.
 */
export async function compete(contestant: Contestant): Promise<never> {
  const [folder, count] = Deno.args;
  const runs = Number(count);
  const milliseconds: Record<string, number[]> = {};
  const time = async <T>(name: string, run: () => Promise<T>): Promise<T> => {
    const start = performance.now();
    const result = await run();
    (milliseconds[name] ??= []).push(performance.now() - start);
    return result;
  };
  const write = (name: string, data: Float32Array<ArrayBuffer>) =>
    Deno.writeFile(outputPath(folder, contestant.name, name), new Uint8Array(data.buffer));

  for (const work of MATMULS) {
    const run = await contestant.matmul(work, matrices(work));
    for (let i = 0; i < WARM_UP; i++) await run();
    let product: Float32Array | undefined;
    for (let i = 0; i < runs; i++) product = await time(work.name, run);
    await write(work.name, new Float32Array(product!));
  }

  const parts = network();
  const training = await contestant.train(parts);
  for (let i = 0; i < WARM_UP; i++) await training.step();
  await training.reset();
  const losses: number[] = [];
  for (let i = 0; i < runs; i++) losses.push(await time(MLP, training.step));
  const [w1, w2] = await training.weights();
  await write(
    MLP,
    Float32Array.from([
      ...losses,
      ...w1.map((w, i) => w - parts.w1.data[i]),
      ...w2.map((w, i) => w - parts.w2.data[i]),
    ]),
  );

  const { name, versions } = contestant;
  const timings: Timings = { name, versions, milliseconds };
  await Deno.writeTextFile(`${folder}/${name}.json`, JSON.stringify(timings));
  // Some libraries keep the process alive.
  Deno.exit(0);
}
