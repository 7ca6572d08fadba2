/**
 * Parameter-efficient fine-tuning for Deno: pure functions over immutable models, on WebGPU and on
 * the CPU.
 *
 * Load a model, put an adapter on it, train it, save it in PEFT's files, load it again, merge it,
 * generate text:
 *
 * ```ts ignore
 * import { generate, getPeftModel, loadModel, loraConfig, savePretrained, train } from "@graft/peft";
 *
 * const base = await loadModel("path/or/hub-id");
 * const config = loraConfig({ r: 8, targetModules: "all-linear", taskType: "CAUSAL_LM" });
 * const model = getPeftModel(base, config);
 * const { model: trained } = await train(model, batches, { learningRate: 1e-3, steps: 100 });
 * await savePretrained(trained, "out/");
 * ```
 *
 * @module
 */
export * from "./lib/errors.ts";
export * from "./lib/tensor/mod.ts";
export * from "./lib/ops/public.ts";
export * from "./lib/program/mod.ts";
export * from "./lib/device/mod.ts";
export * from "./lib/model/mod.ts";
export * from "./lib/architectures/mod.ts";
export * from "./lib/methods/public.ts";
export * from "./lib/tasks/public.ts";
export * from "./lib/adapters/mod.ts";
export * from "./lib/training/mod.ts";
export * from "./lib/generation/mod.ts";
export * from "./lib/inference/mod.ts";
export * from "./lib/io/mod.ts";
