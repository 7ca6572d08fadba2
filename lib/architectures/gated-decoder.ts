/**
 * The body that most decoders since Llama have: RMSNorm, rotated heads in groups, and a gated feed
 * forward. What families change of it is data.
 *
 * @module
 */
import type { Body, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import type { NormRule } from "../model/site.ts";
import type { TaskType } from "../model/task-type.ts";
import { add, mul, sigmoid } from "../ops/elementwise.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Value } from "../ops/value.ts";
import { ConfigError } from "../errors.ts";
import { type Activation, ACTIVATIONS } from "./activations.ts";
import { configReader, EPSILON, RATE } from "./config-reader.ts";
import { layersOf } from "./layers.ts";
import { balance, type FeedForward, type Mixture, mixture, type Route } from "./mixture.ts";
import { checkRope, ropeConfig, ropeRules, type Ropes, rotations } from "./rope.ts";
import { joinHeads, splitHeads } from "./split-heads.ts";

/** One such decoder. */
export interface GatedDecoder {
  /** Rows of the embedding. */
  readonly vocab: number;
  /** Size of the hidden state. */
  readonly hidden: number;
  /** Size between the layers of the feed forward. */
  readonly intermediate: number;
  /** Number of layers. */
  readonly layers: number;
  /** Heads of queries. */
  readonly heads: number;
  /** Heads of keys and values. */
  readonly keyHeads: number;
  /** Size of a head. */
  readonly headSize: number;
  /** Which layers have a bias. */
  readonly bias: { readonly qkv: boolean; readonly output: boolean; readonly mlp: boolean };
  /** Whether queries, keys and values come out of one layer, and gate and values of another. */
  readonly fused: boolean;
  /** How all norms normalise. */
  readonly norm: NormRule;
  /** What queries and keys are normalised over: each head, all of them, or nothing. */
  readonly headNorm: "head" | "all" | null;
  /** Whether norms stand before attention and feed forward, after them, or both. */
  readonly norms: "before" | "after" | "both";
  /** The experts of a layer; `null`, as by default, where all tokens take one way. */
  mixture?(layer: number): Mixture | null;
  /** How much it counts for a language model's loss that experts get unequal shares; 0 by default. */
  readonly balance?: number;
  /** Size between the layers of a feed forward that all tokens take beside experts. */
  readonly shared?: number;
  /** Of the gate. */
  readonly activation: Activation;
  /** Share of the probabilities that training drops. */
  readonly attentionDropout: number;
  /** Share of what attention and feed forward add that training drops. */
  readonly residualDropout: number;
  /** Factor of the embeddings. */
  readonly embeddingScale: number;
  /** Factor of the dot products; 1/√D by default. */
  readonly scale?: number;
  /** What scores come near to but not above. */
  readonly cap: number | null;
  /** How many tokens up to itself a token sees in a layer; `null` for all. */
  window(layer: number): number | null;
  /** Rotations by name. */
  readonly ropes: Ropes;
  /** The name of a layer's rotation. */
  rope(layer: number): string;
}

/** What a config says about a decoder in the way of Llama's. */
export function readDecoder(config: ModelConfig): GatedDecoder {
  const { size, optionalSize, number, boolean, choice, list } = configReader(config);
  const type = config.model_type as string;
  const heads = size("num_attention_heads"), hidden = size("hidden_size");
  const keyHeads = size("num_key_value_heads", heads);
  const headSize = size("head_dim", hidden / heads, 1 << 16);
  if (heads % keyHeads || headSize % 2) {
    throw new ConfigError(
      "MODEL_CONFIG",
      `The config of a ${type} model has ${heads} heads for ${keyHeads} of keys and values, each of size ${headSize}: ` +
        "the first must be a multiple of the second, and the size even.",
      { heads, keyHeads, headSize },
    );
  }
  const bias = boolean("attention_bias", false), window = optionalSize("sliding_window");
  const kinds = list("layer_types");
  return {
    vocab: size("vocab_size"),
    hidden,
    intermediate: size("intermediate_size"),
    layers: size("num_hidden_layers"),
    heads,
    keyHeads,
    headSize,
    bias: { qkv: bias, output: bias, mlp: boolean("mlp_bias", false) },
    fused: false,
    norm: { kind: "rms", epsilon: number("rms_norm_eps", 1e-6, EPSILON) },
    headNorm: null,
    norms: "before",
    activation: choice("hidden_act", "silu", ACTIVATIONS),
    attentionDropout: number("attention_dropout", 0, RATE),
    residualDropout: 0,
    embeddingScale: 1,
    cap: null,
    window: (layer) => kinds?.[layer] === "sliding_attention" ? window : null,
    ropes: { rope: ropeConfig(config, headSize) },
    rope: () => "rope",
  };
}

/** What differs from one run of attention to another. */
interface Place {
  rotate(x: Value): Value;
  readonly window: number | null;
}

/** The attention of one layer: its modules, and how they run. */
function attention(m: Modules, c: GatedDecoder): (x: Value, at: Place) => Value {
  const { heads, keyHeads, headSize, hidden, bias } = c;
  const attend = m.attention({ features: hidden, heads, keyHeads, headSize });
  const output = () =>
    m.linear("o_proj", { in: heads * headSize, out: hidden }, { bias: bias.output });
  const early = c.fused ? output() : undefined;
  const parts = projections(m, "qkv_proj", {
    in: hidden,
    sizes: [["q_proj", heads], ["k_proj", keyHeads], ["v_proj", keyHeads]].map(
      ([name, count]) => [name as string, Number(count) * headSize],
    ),
    bias: bias.qkv,
    fused: c.fused,
  });
  const [q, k, v] = [heads, keyHeads, keyHeads].map((count, i) => (x: Value) =>
    splitHeads(parts[i](x), count)
  );
  const o = early ?? output();
  const all = c.headNorm === "all";
  const norm = (name: string, count: number) =>
    c.headNorm ? m.norm(name, all ? count * headSize : headSize, c.norm) : (x: Value) => x;
  const qNorm = norm("q_norm", heads), kNorm = norm("k_norm", keyHeads);
  const normed = (x: Value, norm: (x: Value) => Value, heads: number) =>
    all ? splitHeads(norm(joinHeads(x)), heads) : norm(x);
  return (x, { rotate, window }) =>
    attend({
      q: rotate(normed(q(x), qNorm, heads)),
      over: x,
      keyValues: (x) => ({ k: normed(k(x), kNorm, keyHeads), v: v(x) }),
      rotate,
      project: (y) => o(joinHeads(y)),
      window,
      scale: c.scale,
      cap: c.cap,
      dropout: c.attentionDropout,
    });
}

/** Layers from one input, each alone or all as one. */
function projections(
  m: Modules,
  name: string,
  of: {
    readonly in: number;
    readonly sizes: readonly (readonly [name: string, size: number])[];
    readonly bias: boolean;
    readonly fused: boolean;
  },
): ((x: Value) => Value)[] {
  const { sizes, bias } = of;
  if (!of.fused) return sizes.map(([name, out]) => m.linear(name, { in: of.in, out }, { bias }));
  const all = m.linear(name, { in: of.in, out: sizes.reduce((n, [, s]) => n + s, 0) }, { bias });
  let end = 0;
  return sizes.map(([, size]) => {
    const start = end;
    end += size;
    return (x) => sliceAxis(all(x), { axis: x.shape.length - 1, start, size });
  });
}

/** The feed forward of a layer: one, or experts and perhaps one beside them. */
function feedForward(m: Modules, c: GatedDecoder, layer: number): FeedForward {
  const experts = c.mixture?.(layer);
  if (!experts) return gatedLayers(m, c);
  const { hidden, activation, shared: intermediate } = c;
  const routed = mixture(m, { ...experts, hidden, activation, layer });
  if (!intermediate) return routed;
  const shared = gatedLayers(m.at("shared_expert"), { ...c, intermediate });
  const gate = m.linear("shared_expert_gate", { in: hidden, out: 1 }, { bias: false });
  return (x, at) => add(routed(x, at), mul(sigmoid(gate(x)), shared(x)));
}

function gatedLayers(m: Modules, c: GatedDecoder): (x: Value) => Value {
  const { hidden, intermediate, fused } = c, bias = c.bias.mlp;
  const [gate, up] = projections(m, "gate_up_proj", {
    in: hidden,
    sizes: [["gate_proj", intermediate], ["up_proj", intermediate]],
    bias,
    fused,
  });
  const down = m.linear("down_proj", { in: intermediate, out: hidden }, { bias });
  return (x) => {
    const opened = c.activation(gate(x));
    return down(mul(opened, up(x)));
  };
}

/** The modules of a decoder, and how they run. */
function gatedDecoder(m: Modules, c: GatedDecoder, task: TaskType): Body {
  const { hidden, norms } = c;
  for (const rope of Object.values(c.ropes)) checkRope(rope);
  const embedding = m.embedding("embed_tokens", { rows: c.vocab, size: hidden });
  const layers = layersOf(c.layers, (i) => {
    const at = m.at("layers").at(i);
    const same = (x: Value) => x;
    const norm = (name: string, is: boolean) => is ? at.norm(name, hidden, c.norm) : same;
    const before = norms !== "after", after = norms !== "before";
    return {
      attention: attention(at.at("self_attn"), c),
      feedForward: feedForward(at.at("mlp"), c, i),
      beforeAttention: norm("input_layernorm", before),
      // Its name stays where norms stand on both sides, and so means another place.
      ...(after
        ? {
          afterAttention: norm("post_attention_layernorm", after),
          beforeFeed: norm("pre_feedforward_layernorm", before),
        }
        : {
          afterAttention: same,
          beforeFeed: norm("post_attention_layernorm", before),
        }),
      afterFeed: norm("post_feedforward_layernorm", after),
      window: c.window(i),
      rope: c.rope(i),
    };
  });
  const last = m.norm("norm", hidden, c.norm);
  return {
    hidden,
    embedding,
    run(pass, { ids, positions }) {
      const turned = rotations(pass, positions, c.ropes);
      const rows = embedding(ids);
      const routes: Route[] = [], at = { pass, routes };
      let h = pass.embedded(c.embeddingScale === 1 ? rows : mul(rows, c.embeddingScale));
      for (const layer of layers) {
        const place = { rotate: turned[layer.rope], window: layer.window };
        const add_ = (x: Value, y: Value) => add(x, pass.dropout(y, c.residualDropout));
        const x = layer.beforeAttention(pass.boundary(h));
        h = add_(h, layer.afterAttention(layer.attention(x, place)));
        h = add_(h, layer.afterFeed(layer.feedForward(layer.beforeFeed(h), at)));
      }
      if (c.balance && task === "CAUSAL_LM") balance(pass, routes, c.balance);
      return { lastHiddenState: last(h) };
    },
  };
}

/** What an architecture of such decoders says beside its body. */
export function decoderRules(read: (config: ModelConfig) => GatedDecoder) {
  const rules = ropeRules((config) => read(config).ropes);
  return {
    body: (m: Modules, config: ModelConfig, task: TaskType): Body =>
      gatedDecoder(m, read(config), task),
    ignoredKeys: /rotary_emb\.inv_freq$/,
    hostInputs: rules.hostInputs,
    maxPositions: (config: ModelConfig): number =>
      config.max_position_embeddings == null ? Infinity : rules.maxPositions(config),
  };
}
