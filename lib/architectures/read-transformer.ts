/**
 * What most configs of models of text say, by whatever names.
 *
 * @module
 */
import type { ModelConfig } from "../model/architecture.ts";
import { ACTIVATIONS } from "../ops/activations.ts";
import { configReader, EPSILON, headSizeOf } from "./config-reader.ts";
import type { Transformer } from "./transformer.ts";

/** What BERT's configs, and those of most since, call it. */
const FIELDS = {
  hidden: "hidden_size",
  inner: "intermediate_size",
  layers: "num_hidden_layers",
  heads: "num_attention_heads",
  keyHeads: "num_key_value_heads",
  activation: "hidden_act",
  epsilon: "layer_norm_eps",
};

/** Names of fields; of several, the first that a config has. */
type Fields = { readonly [F in keyof typeof FIELDS]?: string | readonly string[] };

/** The names that configs in the way of GPT-2's have. */
export const GPT2_FIELDS: Fields = {
  hidden: "n_embd",
  inner: "n_inner",
  layers: "n_layer",
  heads: "n_head",
  activation: "activation_function",
  epsilon: "layer_norm_epsilon",
};

/** What is usual in a family. */
export interface UsualFields {
  /** Names that are others than BERT's. */
  readonly fields?: Fields;
  /** Size of the feed forward, where a config does not say; it must by default. */
  readonly inner?: (hidden: number) => number;
  /** Its activation; `gelu` by default. */
  readonly activation?: string;
  /** What norms add to the variance; 1e-5 by default. */
  readonly epsilon?: number;
}

/** Sizes and rules of layers with LayerNorm; the hidden size is shared among the heads. */
export function readLayers(
  config: ModelConfig,
  of: UsualFields = {},
): Pick<
  Transformer,
  "hidden" | "inner" | "layers" | "heads" | "keyHeads" | "headSize" | "activation" | "norm"
> {
  const { size, number, choice } = configReader(config);
  const name = (field: keyof typeof FIELDS) => {
    const names = [of.fields?.[field] ?? FIELDS[field]].flat();
    return names.find((name) => config[name] != null) ?? names[0];
  };
  const hidden = size(name("hidden")), heads = size(name("heads"));
  const keyHeads = size(name("keyHeads"), heads);
  return {
    hidden,
    inner: size(name("inner"), of.inner?.(hidden)),
    layers: size(name("layers")),
    heads,
    keyHeads,
    headSize: headSizeOf(config, { hidden, heads, keyHeads }),
    activation: choice(name("activation"), of.activation ?? "gelu", ACTIVATIONS),
    norm: { kind: "layer", epsilon: number(name("epsilon"), of.epsilon ?? 1e-5, EPSILON) },
  };
}

/** The same of a model of text. */
export function readTransformer(
  config: ModelConfig,
  of: UsualFields = {},
): ReturnType<typeof readLayers> & Pick<Transformer, "vocab"> {
  return { vocab: configReader(config).size("vocab_size"), ...readLayers(config, of) };
}
