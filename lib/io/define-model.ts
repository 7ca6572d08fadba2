/**
 * `defineModel`: a model of one's own, from its modules and how they run.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import type { Architecture, ArchitecturePass, PassOutputs } from "../model/architecture.ts";
import type { BatchInput } from "../model/batch-input.ts";
import { createModelGraph, type ModelGraph } from "../model/model-graph.ts";
import type { Modules } from "../model/modules.ts";
import type { Value } from "../ops/value.ts";
import { checkOptions, FUNCTION, TEXT, WHOLE } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { isObject } from "./json.ts";
import { DEVICE_OPTIONS, type ModelDeviceOptions, newParameters, onDevice } from "./load-model.ts";
import { openSafetensors } from "./safetensors.ts";

/** An input of a model of one's own. */
export interface ModelInput extends Partial<Omit<BatchInput, "name" | "axes">> {
  /** Its shape: `"batch"` first, then names of sizes that differ from batch to batch, or numbers. */
  readonly axes: BatchInput["axes"];
}

/** A model of one's own. */
export interface ModelDefinition {
  /** What messages call it; `"custom"` by default. */
  readonly name?: string;
  /** Its inputs by name: f32 numbers without bounds where nothing else is said. */
  readonly inputs: Readonly<Record<string, ModelInput>>;
  /**
   * Declares its modules, by their names in a `state_dict` and in torch's order, and gives the function
   * that makes its outputs of its inputs.
   */
  modules(
    m: Modules,
  ): (inputs: Readonly<Record<string, Value>>, pass: ArchitecturePass) => PassOutputs;
}

/** Where a model of one's own runs, and its weights. */
export interface DefineModelOptions extends Pick<ModelDeviceOptions, "device" | "threads"> {
  /**
   * A safetensors file of the torch module's `state_dict`, or tensors by name; random without it: norms
   * 1, biases 0, others normal with a deviation of 0.02.
   */
  readonly weights?: string | URL | ReadonlyMap<string, Tensor>;
  /** Decides random weights; 0 by default. */
  readonly seed?: number;
}

/**
 * A model of one's own: no family, no `config.json` and no token ids, but modules that methods adapt,
 * and inputs and outputs by name. `forward` takes and gives these, `train` an objective that looks at
 * them; adapters are those that PEFT makes for the same torch module.
 *
 * @param definition Inputs, modules and how they run.
 * @param options Device and weights.
 * @throws {ValueError} `MODEL_DEFINITION` for what is none; for an option that cannot be.
 * @throws {FileError} where the file of weights is missing or damaged.
 * @throws {CheckpointError} where the weights are not those of the modules.
 * @throws {DeviceError} where there is no such device.
 *
 * @example
 * ```ts
 * import { defineModel, forward, getPeftModel, loraConfig } from "@graft/peft";
 * import { reshape, tanh, type Tensor, tensor } from "@graft/peft";
 * const base = await defineModel({
 *   inputs: { image: { axes: ["batch", 3, 8, 8] } },
 *   modules(m) {
 *     const conv = m.conv("conv", { in: 3, out: 4, kernel: [8, 8] });
 *     const head = m.linear("head", { in: 4, out: 2 });
 *     return ({ image }) => ({ scores: head(tanh(reshape(conv(image), [-1, 4]))) });
 *   },
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 2, targetModules: ["conv", "head"] }));
 * const image = tensor(new Float32Array(192).fill(0.5), { shape: [1, 3, 8, 8] });
 * const { scores } = await forward<{ scores: Tensor }>(model, { image });
 * console.log(scores.shape); // [1, 2]
 * ```
 */
export async function defineModel(
  definition: ModelDefinition,
  options: DefineModelOptions = {},
): Promise<ModelGraph> {
  const { device, threads } = DEVICE_OPTIONS;
  checkOptions(options, { device, threads, weights: null, seed: WHOLE }, {
    code: "LOAD_OPTION",
    of: "defineModel",
  });
  checkOptions(definition, { name: TEXT, inputs: INPUTS, modules: FUNCTION }, {
    code: "MODEL_DEFINITION",
    of: "defineModel",
  });
  const { weights, seed = 0 } = options, architecture = architectureFor(definition);
  const kind = { architecture, config: {}, taskType: "FEATURE_EXTRACTION" } as const;
  const isFile = typeof weights === "string" || weights instanceof URL;
  const parameters = isFile
    ? (await openSafetensors(weights)).tensors
    : weights ?? newParameters(kind, { seed });
  const source = isFile ? String(weights) : null;
  return await onDevice(
    options,
    (device) => createModelGraph(architecture, { ...kind, parameters, device, source }),
  );
}

const INPUTS = {
  must: 'inputs by name, each with its axes, such as { image: { axes: ["batch", 3, 8, 8] } }',
  holds: (x: unknown) =>
    isObject(x) && Object.values(x).length > 0 &&
    Object.values(x).every((input) => isObject(input) && (input.axes as string[])[0] === "batch"),
};

function architectureFor({ name = "custom", inputs, modules }: ModelDefinition): Architecture {
  const parts = Object.entries(inputs ?? {}).map(([name, input]): BatchInput => ({
    name,
    dtype: "f32",
    doc: `Numbers [${input.axes.join(", ")}].`,
    ...input,
  }));
  if (!modules) throw new ValueError("MODEL_DEFINITION", "defineModel needs modules.");
  return {
    name,
    modelTypes: [],
    bodyPath: "",
    heads: { FEATURE_EXTRACTION: null },
    reads: () => parts,
    body(m) {
      const run = modules(m);
      return {
        hidden: 0, // No head asks for it.
        run: (pass) =>
          run(Object.fromEntries(parts.map((part) => [part.name, pass.batchInput(part)])), pass),
      };
    },
  };
}
