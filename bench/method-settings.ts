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
  IA3: { peft_type: "IA3", ...common, feedforward_modules: ["down_proj"] },
  OFT: { peft_type: "OFT", oft_block_size: 32, ...common },
  VERA: { peft_type: "VERA", r: 256, ...common },
  PVERA: { peft_type: "PVERA", r: 256, ...common },
  RANDLORA: { peft_type: "RANDLORA", r: 32, ...common },
  VBLORA: { peft_type: "VBLORA", vector_length: 64, ...common },
  TINYLORA: { peft_type: "TINYLORA", ...common },
  UNILORA: { peft_type: "UNILORA", ...common },
};
