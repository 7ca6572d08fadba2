/**
 * The setting of each method that is measured: PEFT's arguments, on all linear layers.
 *
 * @module
 */

/** A few layers, for methods that begin with decompositions of each weight. */
const few = { target_modules: ".*\\.[012]\\.self_attn\\.[qv]_proj" };

/** What `adapter_config.json` holds beside the defaults, by a name that starts with the method's. */
export const METHOD_SETTINGS: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  LORA: { r: 8 },
  "LORA, DoRA": { r: 8, use_dora: true },
  ADALORA: { init_r: 12, total_step: 1000 },
  "ADAMSS, 6 layers": few,
  C3A: { block_size: 64 },
  DEFT: { r: 8 },
  DELORA: { r: 8 },
  FOURIERFT: { n_frequency: 1000 },
  "FROD, 6 layers": few,
  GLORA: { r: 8 },
  GRALORA: { r: 32 },
  HIRA: { r: 32 },
  IA3: { feedforward_modules: ["down_proj"] },
  LOHA: { r: 8 },
  LOKR: { r: 8 },
  MISS: { r: 64 },
  OFT: { oft_block_size: 32 },
  "OSF, 6 layers": few,
  PEANUT: {},
  "PSOFT, 6 layers": { r: 32, ...few },
  PVERA: { r: 256 },
  RANDLORA: { r: 32 },
  SHIRA: { r: 32 },
  "TINYLORA, 6 layers": few,
  UNILORA: {},
  VBLORA: { r: 4, num_vectors: 256, vector_length: 64 },
  VERA: { r: 256 },
  WAVEFT: { n_frequency: 2592 },
};

/** The whole of `adapter_config.json`, as far as it is asked for. */
export function settingsOf(name: string): Readonly<Record<string, unknown>> {
  const [peft_type] = name.split(",");
  return {
    peft_type,
    task_type: "CAUSAL_LM",
    target_modules: "all-linear",
    ...METHOD_SETTINGS[name],
  };
}
