/**
 * The resources of one training run: compiled programs by kind and size of batch, and the state
 * that they share.
 *
 * @module
 */
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import { compileWith, type Executable, type State } from "../device/device.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { type AdamWOptions, adamWRates } from "./adamw.ts";
import { batchInputs, type PreparedBatch } from "./batch.ts";
import { type Packing, toVector } from "./packing.ts";
import { STATE, type StepOptions, traceStep } from "./step-program.ts";

/** Settings that all programs of a run share. */
export interface SessionOptions extends AdamWOptions {
  /** Where each leaf lies. */
  readonly packing: Packing;
  /** Whether dropout is on. */
  readonly dropout: boolean;
  /** See `TrainOptions.maxGradientNorm`. */
  readonly maxGradientNorm?: number;
  /** See `TrainOptions.gradientCheckpointing`. */
  readonly gradientCheckpointing?: boolean;
  /** Whether steps add up several batches. */
  readonly accumulates: boolean;
}

/** The contents of the optimizer's state, as vectors. */
export interface OptimizerVectors {
  /** What is trained. */
  readonly parameters: Tensor;
  /** Running means of gradients. */
  readonly mean: Tensor;
  /** Running means of squared gradients. */
  readonly square: Tensor;
}

/** A run's programs and state. */
export interface TrainingSession extends Disposable {
  /** Adds one batch's gradient up; gives its scaled loss. */
  accumulate(
    batch: PreparedBatch,
    at: { readonly lossScale: number; readonly seed: number },
  ): Promise<number>;
  /**
   * Takes an optimizer step with one batch and what was added up; gives the batch's scaled loss and
   * the norm of the whole gradient.
   */
  update(
    batch: PreparedBatch,
    at: {
      readonly lossScale: number;
      readonly seed: number;
      readonly step: number;
      readonly learningRate: number;
    },
  ): Promise<{ readonly loss: number; readonly gradientNorm: number }>;
  /** Sum of the losses of one batch, without dropout. */
  evaluate(batch: PreparedBatch): Promise<number>;
  /** Copies the state to the host. */
  read(): Promise<OptimizerVectors>;
  /** Replaces the state. */
  write(vectors: OptimizerVectors): Promise<void>;
}

/** Opens a session on a model's device. */
export async function openSession(
  model: AnyModel,
  leaves: ReadonlyMap<string, Tensor>,
  options: SessionOptions,
): Promise<TrainingSession> {
  const { device } = baseOf(model);
  const { packing } = options;
  const spec = { shape: [packing.size], dtype: "f32" as const };
  const names = [
    STATE.parameters,
    STATE.mean,
    STATE.square,
    ...(options.accumulates ? [STATE.gradient] : []),
  ];
  const state: State = device.createState(Object.fromEntries(names.map((name) => [name, spec])));
  const programs = new Map<
    string,
    Promise<{ bindings: Readonly<Record<string, Tensor>>; executable: Executable }>
  >();

  function compiled(kind: StepOptions["kind"], { batch, length }: PreparedBatch) {
    const key = `${kind} ${batch} ${length}`;
    let found = programs.get(key);
    if (!found) {
      const { program, bindings } = traceStep(model, {
        ...options,
        batch,
        length,
        kind,
        accumulated: options.accumulates,
      });
      found = compileWith(device, program, bindings).then((executable) => ({
        bindings,
        executable,
      }));
      programs.set(key, found);
    }
    return found;
  }

  async function run(
    kind: StepOptions["kind"],
    batch: PreparedBatch,
    extra: {
      readonly lossScale: number;
      readonly seed?: number;
      readonly rates?: readonly Tensor[];
    },
  ) {
    const { bindings, executable } = await compiled(kind, batch);
    const [decay, size, correction] = extra.rates ?? [];
    const rates: Record<string, Tensor> = decay
      ? { "rate.decay": decay, "rate.size": size, "rate.correction": correction }
      : {};
    const inputs = batchInputs(model, batch, { program: executable.program, ...extra });
    const outputs = await executable.run({ ...bindings, ...inputs, ...rates }, { state });
    const scalar = async (name: string) =>
      outputs[name] ? (await outputs[name].data())[0] as number : NaN;
    return { loss: await scalar("loss"), gradientNorm: await scalar("gradientNorm") };
  }

  if (packing.size) await state.write(STATE.parameters, await toVector(packing, leaves));
  return {
    accumulate: async (batch, at) => (await run("accumulate", batch, at)).loss,
    update: (batch, at) =>
      run("update", batch, { ...at, rates: adamWRates(at.step, { ...options, ...at }) }),
    evaluate: async (batch) => (await run("evaluate", batch, { lossScale: 1 })).loss,
    read: async () => ({
      parameters: await state.read(STATE.parameters),
      mean: await state.read(STATE.mean),
      square: await state.read(STATE.square),
    }),
    async write(vectors) {
      await state.write(STATE.parameters, vectors.parameters);
      await state.write(STATE.mean, vectors.mean);
      await state.write(STATE.square, vectors.square);
      if (options.accumulates) {
        await state.write(STATE.gradient, tensor(new Float32Array(packing.size)));
      }
    },
    [Symbol.dispose]: () => state[Symbol.dispose](),
  };
}
