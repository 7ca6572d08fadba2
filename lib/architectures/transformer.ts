/**
 * The body of models of text: rows of embeddings, and layers of attention and feed forward. What
 * families change of it is data: sizes, and the names of modules by what they are for.
 *
 * @module
 */
import type { ArchitecturePass, Body, ModelConfig } from "../model/architecture.ts";
import type { Layer, Modules } from "../model/modules.ts";
import { add, min, mul, tanh } from "../ops/elementwise.ts";
import { iota } from "../ops/iota.ts";
import type { Value } from "../ops/value.ts";
import { distanceBias } from "./distance-bias.ts";
import type { Route } from "./feed-forward.ts";
import { isToken } from "./layers.ts";
import { declared } from "./roles.ts";
import { ropeRules, type Ropes, rotations } from "./rope.ts";
import { checkRope } from "./rope-frequencies.ts";
import { firstRows } from "./text-rows.ts";
import { tokenTypes } from "./token-types.ts";
import { type LayerRule, transformerLayer } from "./transformer-layer.ts";

/** What is done with the rows of the embedding, one after the other. */
export type EmbeddingStep = "positions" | "types" | "norm" | "mask" | "dropout" | "project";

const STEPS: readonly EmbeddingStep[] = ["positions", "types", "norm", "dropout"];

/** Names of modules beside those of layers, in torch's order. */
export interface BodyNames {
  /** The token embedding. */
  readonly embedding: string;
  /** The table of positions. */
  readonly positions?: string;
  /** The table of types. */
  readonly types?: string;
  /** The norm of embeddings. */
  readonly norm?: string;
  /** From the size of embeddings to that of the hidden state, where they differ. */
  readonly project?: string;
  /** And back. */
  readonly projectBack?: string;
  /** What holds the layers. */
  readonly layers: string;
  /** The last norm. */
  readonly last?: string;
  /** A table of distances for all layers. */
  readonly distances?: string;
  /** What makes the output of a pooler of the first token. */
  readonly pooler?: string;
}

/** One such body. */
export interface Transformer extends LayerRule {
  /** Names of modules. */
  readonly names: BodyNames;
  /** Rows of the embedding. */
  readonly vocab: number;
  /** Size of embeddings; that of the hidden state by default. */
  readonly embedding?: number;
  /** Factor of the embeddings; 1 by default. */
  readonly embeddingScale?: number;
  /** What is done with them; the table of positions, that of types, the norm, dropout by default. */
  readonly steps?: readonly EmbeddingStep[];
  /** Number of layers. */
  readonly layers: number;
  /** Rows of the table of positions, and how many of them stand before the first position. */
  readonly positions?: { readonly rows: number; readonly offset?: number };
  /** Types of tokens. */
  readonly types?: number | null;
  /** Which linear layers have a bias; all by default. */
  readonly bias?: LayerRule["bias"] & { readonly project?: boolean };
  /** Rotations by name. */
  readonly ropes?: Ropes;
  /** The name of a layer's rotation, or `null` for none; `rope` by default. */
  rope?(layer: number): string | null;
  /** What becomes of the ways that tokens took through experts. */
  routed?(pass: ArchitecturePass, routes: readonly Route[]): void;
  /** Shares that training drops: 0 by default. */
  readonly dropout: LayerRule["dropout"] & {
    /** Of embeddings. */
    readonly embedding?: number;
    /** Of what the last norm gives. */
    readonly last?: number;
  };
}

/** What one run of a body gets. */
export interface TransformerRun {
  /** Token ids. */
  readonly ids: Value;
  /** Positions; by default they count from the first token of a row, padding included. */
  readonly positions?: Value;
  /** What an encoder made. */
  readonly memory?: Value;
}

/** A body as a part of a model. */
export interface TransformerBody {
  /** Size of what it gives. */
  readonly hidden: number;
  /** The token embedding. */
  readonly embedding: Layer;
  /** Runs it. */
  run(pass: ArchitecturePass, inputs: TransformerRun): Value;
  /** The pooler, where there is one. */
  readonly pooler?: Layer;
}

/** Declares a body: of its own, or of the encoder or decoder of a model with both. */
export function transformer(
  m: Modules,
  c: Transformer,
  of: { readonly tiedTo?: Layer; readonly over?: "tokens" | "decoderTokens" } = {},
): TransformerBody {
  const { hidden, embedding: size = hidden, steps = STEPS, over = "tokens" } = { ...c, ...of };
  const { rows = 0, offset = 0 } = c.positions ?? {};
  for (const rope of Object.values(c.ropes ?? {})) checkRope(rope);
  const sizeAt = (step: EmbeddingStep) =>
    steps.indexOf(step) > steps.indexOf("project") ? hidden : size;
  const project = (name: string, sizes: { readonly in: number; readonly out: number }) =>
    size === hidden ? undefined : m.linear(name, sizes, { bias: c.bias?.project });
  const made = declared(c.names, {
    embedding: (name: string) => m.embedding(name, { rows: c.vocab, size }, of),
    positions: (name: string) =>
      m.embedding(name, { rows, size: sizeAt("positions") }, { positions: rows - offset }),
    types: (name: string) => m.embedding(name, { rows: c.types!, size: sizeAt("types") }),
    norm: (name: string) => m.norm(name, sizeAt("norm"), c.norm),
    project: (name: string) => project(name, { in: size, out: hidden }),
    projectBack: (name: string) => project(name, { in: hidden, out: size }),
    layers: (name: string) =>
      m.layers(name, c.layers, (m, layer) => ({
        ...transformerLayer(m, c, { layer, over }),
        rope: c.rope ? c.rope(layer) : "rope",
      })),
    last: (name: string) => m.norm(name, hidden, c.norm),
    distances: (name: string) => m.embedding(name, { rows: c.distances!.buckets, size: c.heads }),
    pooler: (name: string) => m.linear(name, { in: hidden, out: hidden }),
  });
  const bucketed = (table: Layer | undefined) =>
    table && distanceBias(table, { ...c.distances!, bidirectional: c.causal === false });
  return {
    hidden: made.projectBack ? size : hidden,
    embedding: made.embedding!,
    pooler: made.pooler,
    run(pass, { ids, positions, memory }) {
      const rotate = positions && c.ropes ? rotations(pass, positions, c.ropes) : {};
      const places = (length: number) => {
        if (positions) return positions;
        const row = iota(ids.graph, [1, length], { axis: 1 });
        const place = over === "tokens" ? row : add(row, pass.offset);
        // Padding may go beyond the last.
        return min(place, rows - offset - 1);
      };
      const run: Readonly<Record<EmbeddingStep, (x: Value) => Value>> = {
        positions: (x) => {
          const place = places(x.shape[1]);
          return add(x, made.positions!(offset ? add(place, offset) : place));
        },
        types: (x) => add(x, made.types!(pass.batchInput(tokenTypes(c.types!)))),
        norm: (x) => made.norm!(x),
        mask: (x) => mul(x, isToken(pass)),
        dropout: (x) => pass.dropout(x, c.dropout.embedding ?? 0),
        project: (x) => made.project!(x),
      };
      const tokens = made.embedding!(ids), { embeddingScale = 1 } = c;
      const scaled = embeddingScale === 1 ? tokens : mul(tokens, embeddingScale);
      let h = over === "tokens" ? pass.embedded(scaled) : scaled;
      for (const step of steps) {
        if (step === "mask" || step === "dropout" || made[step]) h = run[step](h);
      }
      const routes: Route[] = [];
      let bias = bucketed(made.distances);
      for (const layer of made.layers!) {
        bias = bucketed(layer.distances) ?? bias;
        const turn = layer.rope === null ? undefined : rotate[layer.rope];
        h = layer.run(pass, { x: pass.boundary(h), rotate: turn, bias, memory, routes });
      }
      c.routed?.(pass, routes);
      const last = pass.dropout(made.last?.(h) ?? h, c.dropout.last ?? 0);
      return made.projectBack?.(last) ?? last;
    },
  };
}

/** What an architecture of one such body says about it. */
export function transformerRules(
  read: (config: ModelConfig, task: string) => Transformer,
) {
  return {
    ...ropeRules((config) => read(config, "").ropes ?? {}),
    body(m: Modules, config: ModelConfig, task: string): Body {
      const { hidden, embedding, run, pooler } = transformer(m, read(config, task));
      return {
        hidden,
        embedding,
        run(pass, inputs) {
          const lastHiddenState = run(pass, inputs);
          const pooled = pooler && { poolerOutput: tanh(pooler(firstRows(lastHiddenState))) };
          return { lastHiddenState, ...pooled };
        },
      };
    },
    // The row before the first position is that of padding, and has its id.
    uncounted(config: ModelConfig): "padding" | number | undefined {
      const { offset = 0 } = read(config, "").positions ?? {};
      return offset > 0 ? offset - 1 : undefined;
    },
  };
}
