/**
 * Golden bases and configs for tests that run nothing.
 *
 * @module
 */
import type { Device } from "../../lib/device/device.ts";
import { loadModel } from "../../lib/io/load-model.ts";
import type { TargetConfig } from "../../lib/methods/config.ts";
import { fromPeftJson } from "../../lib/methods/peft-json.ts";
import type { ModelGraph } from "../../lib/model/model-graph.ts";
import type { Tensor } from "../../lib/tensor/tensor.ts";

/** Path of the golden files. */
export const golden = new URL("../golden/", import.meta.url).pathname;

const refuse = () => {
  throw new Error("This test is to run nothing on a device.");
};

/** A device on which nothing can run. */
export const noDevice: Device = {
  kind: "cpu",
  description: "none",
  weightType: () => "f32",
  compile: refuse,
  preload: refuse,
  createState: refuse,
  release: refuse,
  memory: refuse,
  [Symbol.dispose]() {},
};

/** A golden base, whose weights can be read and not run. */
export function goldenBase(kind: string, device: Device = noDevice): Promise<ModelGraph> {
  return loadModel(`${golden}base/${kind}`, { device });
}

/** A LoRA config from PEFT's arguments, as the golden cases record them. */
export function peftLora(fields: Readonly<Record<string, unknown>>): TargetConfig {
  return fromPeftJson({ peft_type: "LORA", task_type: "CAUSAL_LM", ...fields }) as TargetConfig;
}

/** A model with some parameters of its own contents changed, for telling bases apart. */
export async function changed(model: ModelGraph, name: string): Promise<ModelGraph> {
  const old = model.parameters.get(name)!;
  const data = (await old.data()).slice() as Float32Array;
  data[0] += 1;
  const tensor: Tensor = { ...old, where: "host", data: () => Promise.resolve(data) };
  return { ...model, parameters: new Map([...model.parameters, [name, tensor]]) };
}
