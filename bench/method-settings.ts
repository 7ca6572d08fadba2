/**
 * The setting of each method that is measured: PEFT's arguments, all linear layers.
 *
 * @module
 */

const common = { target_modules: "all-linear" };

/** PEFT's `adapter_config.json`, as far as it differs from the defaults, by name of the method. */
export const METHOD_SETTINGS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  LORA: { peft_type: "LORA", r: 8, ...common },
  "LORA, DoRA": { peft_type: "LORA", r: 8, use_dora: true, ...common },
  ADALORA: { peft_type: "ADALORA", init_r: 12, total_step: 1000, ...common },
  C3A: { peft_type: "C3A", block_size: 64, ...common },
  FOURIERFT: { peft_type: "FOURIERFT", ...common },
  IA3: { peft_type: "IA3", ...common, feedforward_modules: ["down_proj"] },
  OFT: { peft_type: "OFT", oft_block_size: 32, ...common },
  SHIRA: { peft_type: "SHIRA", r: 8, ...common },
  VERA: { peft_type: "VERA", r: 256, ...common },
  WAVEFT: { peft_type: "WAVEFT", ...common },
};
