/**
 * The resources of one training run: compiled programs by kind and size of batch, and the state
 * that they share.
 *
 * @module
 */
import { batchInputs, batchKey, type PreparedBatch } from "../adapters/batch.ts";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import type { StepTime } from "../methods/training-rule.ts";
import { compileWith, type Executable } from "../device/device.ts";
import type { EvaluatedBatch, HostPart } from "../tasks/objective.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import type { OptimizerTime } from "./optimizer.ts";
import { openState, ruleName, type TrainingState } from "./state.ts";
import { rateName, type StepOptions, type StepShape, traceStep } from "./step-program.ts";

/** How one batch of a step is run. */
export interface BatchTime {
  /** What the sum of its losses is multiplied by. */
  readonly lossScale: number;
  /** What penalties are multiplied by. */
  readonly penaltyScale: number;
  /** Seed of the dropout masks. */
  readonly dropoutSeed: number;
  /** Where the run stands, for rules. */
  readonly time: StepTime;
}

/** A run's programs and state. */
export interface TrainingSession extends Disposable {
  /** The state. */
  readonly state: TrainingState;
  /** Adds one batch's gradient up; gives its scaled loss. */
  accumulate(batch: PreparedBatch, at: BatchTime): Promise<number>;
  /**
   * Takes an optimizer step with one batch and what was added up; gives the batch's scaled loss and
   * the norm of the whole gradient.
   */
  update(
    batch: PreparedBatch,
    at: BatchTime & OptimizerTime,
  ): Promise<{ readonly loss: number; readonly gradientNorm: number }>;
  /** Sum of the losses of one batch, without dropout, and what metrics are made of. */
  evaluate(
    batch: PreparedBatch,
  ): Promise<{ readonly loss: number; readonly outputs: EvaluatedBatch["outputs"] }>;
  /** Mean loss of one batch and its gradients, `grad.<leaf>`, without dropout. */
  gradients(batch: PreparedBatch): Promise<Readonly<Record<string, Tensor>>>;
}

/** Opens a session on a model's device; it begins with these leaves. */
export async function openSession(
  model: AnyModel,
  leaves: ReadonlyMap<string, Tensor>,
  options: StepOptions,
): Promise<TrainingSession> {
  const { device } = baseOf(model);
  const { packing, optimizer, rules = [] } = options;
  const state = await openState(device, leaves, options);
  const programs = new Map<
    string,
    Promise<{ bindings: Readonly<Record<string, Tensor>>; executable: Executable }>
  >();

  function compiled(kind: StepShape["kind"], prepared: PreparedBatch) {
    const key = `${kind} ${batchKey(prepared)}`;
    let found = programs.get(key);
    if (!found) {
      const { program, bindings } = traceStep(model, { ...options, prepared, kind });
      found = compileWith(device, program, bindings).then((executable) => ({
        bindings,
        executable,
      }));
      programs.set(key, found);
    }
    return found;
  }

  async function run(
    kind: StepShape["kind"],
    batch: PreparedBatch,
    at: BatchTime,
    rates: Readonly<Record<string, Tensor>> = {},
  ): Promise<Readonly<Record<string, Tensor>>> {
    const { bindings, executable } = await compiled(kind, batch);
    const { program } = executable;
    const inputs = batchInputs(model, batch, { program, seed: at.dropoutSeed });
    const extra: Record<string, Tensor> = { lossScale: one(at.lossScale), ...rates };
    if (program.inputs.has("penaltyScale")) extra.penaltyScale = one(at.penaltyScale);
    for (const rule of rules) {
      for (const [name, input] of Object.entries(rule.inputs ?? {})) {
        const full = ruleName(rule, name);
        if (program.inputs.has(full)) extra[full] = input.at(at.time);
      }
    }
    return await executable.run({ ...bindings, ...inputs, ...extra }, { state: state.device });
  }

  function ratesAt(time: OptimizerTime): Readonly<Record<string, Tensor>> {
    return Object.fromEntries(
      [...packing.groups.keys()].flatMap((group) =>
        Object.entries(optimizer!.rates(time, group)).map((
          [name, rate],
        ) => [rateName(name, group), one(rate)])
      ),
    );
  }

  return {
    state,
    accumulate: async (batch, at) => await numberOf((await run("accumulate", batch, at)).loss),
    async update(batch, at) {
      const { loss, gradientNorm } = await run("update", batch, at, ratesAt(at));
      return { loss: await numberOf(loss), gradientNorm: await numberOf(gradientNorm) };
    },
    async evaluate(batch) {
      const { loss, ...outputs } = await run("evaluate", batch, { ...ALONE, lossScale: 1 });
      return { loss: await numberOf(loss), outputs: await onHost(outputs) };
    },
    gradients: (batch) =>
      run("gradients", batch, { ...ALONE, lossScale: 1 / Math.max(1, batch.count) }),
    [Symbol.dispose]: () => state[Symbol.dispose](),
  };
}

/** A batch that is no part of a run. */
const ALONE = {
  penaltyScale: 1,
  dropoutSeed: 0,
  time: { step: 1, steps: 1, batch: 0, seed: 0 },
};

/** Tensors as numbers. */
export async function onHost(
  tensors: Readonly<Record<string, Tensor>>,
): Promise<Readonly<Record<string, HostPart>>> {
  const parts: Record<string, HostPart> = {};
  for (const [name, tensor] of Object.entries(tensors)) {
    parts[name] = { data: await tensor.data() as HostPart["data"], shape: tensor.shape };
  }
  return parts;
}

async function numberOf(value: Tensor): Promise<number> {
  return (await value.data())[0] as number;
}

function one(x: number): Tensor {
  return tensor(Float32Array.of(x));
}
