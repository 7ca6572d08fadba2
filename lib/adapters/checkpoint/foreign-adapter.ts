/**
 * Adapters that other programs wrote, in PEFT's form.
 *
 * @module
 */
import { FileError, UnsupportedError } from "../../errors.ts";
import { isObject, type JsonObject } from "../../io/json.ts";
import { type MethodRegistry, prefixOf } from "../../methods/mod.ts";
import { presentJson } from "../../methods/peft-json.ts";
import { show } from "../../options.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { transposed } from "../parts.ts";
import type { RenamedKey } from "./key-mapping.ts";

/** What mlx-lm calls its file of weights. */
export const MLX_WEIGHTS = "adapters.safetensors";

/** Whether a config is one of mlx-lm. */
export function isMlxConfig(config: JsonObject): boolean {
  return !("peft_type" in config) && ("fine_tune_type" in config || "lora_parameters" in config);
}

/**
 * An adapter of mlx-lm as PEFT has it: matrices are transposed, and the scale is alpha / r.
 *
 * @throws {FileError} `ADAPTER_FOREIGN` for a config without the scale, and for other tensors than
 * pairs of matrices of one rank.
 * @throws {UnsupportedError} `ADAPTER_FOREIGN` for what PEFT has no adapter for: weights that were
 * trained themselves, several experts in one tensor, and embeddings, as mlx-lm's change a tied head
 * too.
 */
export function fromMlx(
  { config, tensors }: {
    readonly config: JsonObject;
    readonly tensors: ReadonlyMap<string, Tensor>;
  },
  folder: string,
): MlxAdapter {
  const { fine_tune_type: type = "lora", lora_parameters: given, model = null } = config;
  const fuse = "Fuse it into a model and load that:\n\n  mlx_lm.fuse --dequantize --model " +
    `${shellWord(String(model ?? "MODEL"))} --adapter-path ${
      shellWord(folder)
    } --save-path fused\n`;
  const unsupported = (what: string) =>
    new UnsupportedError("ADAPTER_FOREIGN", `${folder} holds ${what}. ${fuse}`, { folder });
  if (type !== "lora" && type !== "dora") {
    throw unsupported(
      `what mlx-lm trained with fine_tune_type ${show(type)}, which is no adapter`,
    );
  }
  const damaged = (what: string) =>
    new FileError("ADAPTER_FOREIGN", `${folder} is no adapter as mlx-lm writes it: ${what}.`, {
      folder,
    });
  const { scale, dropout = 0 } = isObject(given) ? given : {};
  if (typeof scale !== "number") {
    throw damaged(`lora_parameters.scale in its config should be a number, and is ${show(scale)}`);
  }
  const plain = new Map<string, Tensor>(), targets = new Set<string>(), ranks = new Set<number>();
  const renamed: RenamedKey[] = [];
  for (const [from, tensor] of tensors) {
    const [, path, name] = from.match(/^(.+)\.(lora_a|lora_b|m)$/) ?? [];
    if (!path) throw damaged(`"${from}" is no lora_a, lora_b or m`);
    if (tensor.shape.length !== (name === "m" ? 1 : 2) || /(^|\.)(embed_tokens|wte)$/.test(path)) {
      throw unsupported(`an adapter of mlx-lm for ${path}, which PEFT cannot express`);
    }
    targets.add(path);
    if (name !== "m") ranks.add(tensor.shape[name === "lora_a" ? 1 : 0]);
    const to = `base_model.model.${path}.${LEAVES[name as keyof typeof LEAVES]}`;
    renamed.push({ from, to });
    plain.set(to, name === "m" ? tensor : transposed(tensor));
  }
  const [rank] = ranks;
  if (ranks.size !== 1) throw damaged(`its ranks are ${[...ranks].join(", ") || "not told"}`);
  return {
    config: {
      peft_type: "LORA",
      base_model_name_or_path: model,
      task_type: "CAUSAL_LM",
      r: rank,
      lora_alpha: scale * rank,
      lora_dropout: dropout,
      use_dora: type === "dora",
      target_modules: [...targets],
    },
    tensors: plain,
    renamed,
  };
}

/** An adapter of mlx-lm in PEFT's form. */
interface MlxAdapter {
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly config: JsonObject;
  /** Its keys, and what became of them. */
  readonly renamed: readonly RenamedKey[];
}

const LEAVES = {
  lora_a: "lora_A.weight",
  lora_b: "lora_B.weight",
  m: "lora_magnitude_vector",
} as const;

/** Text as one word of a shell's command line. */
export function shellWord(text: string): string {
  return /^[\w./:@=-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

/**
 * An adapter of a method under a name that it had in older releases of PEFT, as it is now, with a note
 * that says so.
 */
export function presentForm<
  P extends { readonly config: object; readonly tensors: ReadonlyMap<string, Tensor> },
>(
  parts: P,
  registry?: MethodRegistry,
): {
  readonly parts: P;
  readonly renamed: readonly RenamedKey[];
  readonly notes: readonly string[];
} {
  const given = parts.config as JsonObject, { json, former } = presentJson(given, registry);
  if (!former) return { parts, renamed: [], notes: [] };
  const { prefix, until, method } = former, old = given.peft_type, now = json.peft_type;
  const leaf = new RegExp(`\\.${prefix}(?=\\w+(\\.default)?$)`);
  const renamed = [...parts.tensors.keys()].map((from) => ({
    from,
    to: from.replace(leaf, `.${prefixOf(method)}`),
  }));
  const tensors = new Map([...parts.tensors.values()].map((t, i) => [renamed[i].to, t]));
  return {
    parts: { ...parts, config: json, tensors },
    renamed: renamed.filter(({ from, to }) => from !== to),
    notes: [
      `The adapter is of the method ${old}, as PEFT called ${now} up to ${until}. It gives the outputs that it gave there, and is saved as ${now}.`,
    ],
  };
}

/**
 * Tensors under the keys that a model's adapter has, where another program kept what PEFT takes out
 * of its state dict: the name of the adapter (`lora_A.default.weight`), wrappers of modules, or a
 * prefix of its own in place of PEFT's.
 */
export function plainKeys(
  tensors: ReadonlyMap<string, Tensor>,
  known: { has(key: string): boolean },
): { readonly tensors: ReadonlyMap<string, Tensor>; readonly renamed: readonly RenamedKey[] } {
  const renamed: RenamedKey[] = [];
  const plain = new Map([...tensors].map(([from, tensor]) => {
    const bare = from.replace(WRAPPERS, "").replace(".modules_to_save.default.", ".")
      .replace(/\.default(?=\.|$)/, "").replace(/(lora_magnitude_vector)\.weight$/, "$1");
    const to = known.has(from)
      ? from
      : [bare, `base_model.model.${bare}`].find((key) => known.has(key) && !tensors.has(key)) ??
        from;
    if (to !== from) renamed.push({ from, to });
    return [to, tensor];
  }));
  // Where two become one, what the file says is reported as it is.
  return plain.size === tensors.size ? { tensors: plain, renamed } : { tensors, renamed: [] };
}

/** What torch puts around modules that run on several devices, are compiled or recomputed. */
const WRAPPERS = /^module\.|(?<=^|\.)_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\./g;
