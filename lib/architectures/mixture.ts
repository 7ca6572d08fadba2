/**
 * Mixtures of experts: feed forwards of which each token goes through a few, that a router chooses
 * (Shazeer et al., 2017, arXiv:1701.06538; Jiang et al., 2024, arXiv:2401.04088).
 *
 * @module
 */
import type { ArchitecturePass, ModelConfig } from "../model/architecture.ts";
import type { Modules } from "../model/modules.ts";
import { multiply, pick, type Weight } from "../model/weight.ts";
import { broadcast } from "../ops/broadcast.ts";
import { cast } from "../ops/cast.ts";
import {
  add,
  div,
  equal,
  floor,
  less,
  lessEqual,
  max,
  mul,
  not,
  sigmoid,
  sub,
} from "../ops/elementwise.ts";
import { placesOf } from "../ops/functions.ts";
import { gather, scatterAdd } from "../ops/gather.ts";
import { iota } from "../ops/iota.ts";
import { matmul } from "../ops/matmul.ts";
import { sum } from "../ops/reduce.ts";
import { reshape } from "../ops/reshape.ts";
import { sliceAxis } from "../ops/slice.ts";
import { softmax } from "../ops/softmax.ts";
import { transpose } from "../ops/transpose.ts";
import type { Value } from "../ops/value.ts";
import type { Activation } from "../ops/activations.ts";
import { configReader, RATE } from "./config-reader.ts";
import { type FeedForward, feedForward, type Route } from "./feed-forward.ts";
import type { Transformer } from "./transformer.ts";

/** Which experts there are, and how a token gets to them. */
export interface Mixture {
  /** Number of experts. */
  readonly experts: number;
  /** How many of them a token goes through. */
  readonly chosen: number;
  /** Size between the layers of an expert. */
  readonly intermediate: number;
  /** Whether the shares of those that are chosen sum up to 1, and not those of all. */
  readonly normalized: boolean;
  /** How far training scales what goes in up and down at random. */
  readonly jitter: number;
  /** Whether torch constructs the router after the experts. */
  readonly routerLast?: boolean;
}

/**
 * What adds to the loss of a language model, if its config says so, what grows as experts get unequal
 * shares of the tokens that are no padding, over all layers (Fedus et al., 2021, arXiv:2101.03961,
 * equations 4 to 6).
 */
export function balanceOf(config: ModelConfig, task: string): Transformer["routed"] {
  const { number, boolean } = configReader(config);
  if (task !== "CAUSAL_LM" || !boolean("output_router_logits", false)) return undefined;
  const coefficient = number("router_aux_loss_coef", 0.001);
  return (pass, routes) => routes.length > 0 && balance(pass, routes, coefficient);
}

function balance(pass: ArchitecturePass, routes: readonly Route[], coefficient: number): void {
  const [tokens, experts] = routes[0].taken.shape, [batch, held] = pass.segments.shape;
  const size = tokens / batch, { segments } = pass;
  const own = sliceAxis(segments, { axis: 1, start: held - size, size });
  const counts = reshape(cast(not(equal(own, 0)), "f32"), [tokens, 1]);
  const total = (of: (route: Route) => Value) =>
    routes.map((route) => sum(mul(of(route), counts), { axes: [0] })).reduce((a, b) => add(a, b));
  const rows = mul(sum(counts), routes.length);
  const both = sum(mul(total(({ taken }) => taken), total(({ shares }) => shares)));
  pass.penalize(mul(div(both, mul(rows, rows)), experts * coefficient));
}

/** What a config says about experts, whose size it calls by this name. */
export function readMixture(config: ModelConfig, intermediate: string): Mixture {
  const { size, number, boolean } = configReader(config);
  const experts = size(config.num_local_experts == null ? "num_experts" : "num_local_experts");
  return {
    experts,
    chosen: size("num_experts_per_tok", undefined, experts),
    intermediate: size(intermediate),
    normalized: boolean("norm_topk_prob", false),
    jitter: number("router_jitter_noise", 0, RATE),
  };
}

/**
 * The feed forward of each layer: that of most, or experts and perhaps one of size `shared` beside
 * them.
 */
export function mixtureOf(
  mixtureAt: (layer: number) => Mixture | null,
  shared?: number,
): Transformer["feedForward"] {
  return (m, c, { names, layer }) => {
    const experts = mixtureAt(layer), { hidden, activation } = c, at = m.at(names.at!);
    if (!experts) return feedForward(m, c, { names, layer });
    const routed = mixture(at, { ...experts, hidden, activation, layer });
    if (!shared) return routed;
    const place = { names: { ...names, at: "shared_expert" }, layer };
    const beside = feedForward(at, { ...c, inner: shared }, place);
    const gate = at.linear("shared_expert_gate", { in: hidden, out: 1 }, { bias: false });
    return (x, at) => add(routed(x, at), mul(sigmoid(gate(x)), beside(x, at)));
  };
}

/** The modules of a mixture, and how they run. */
function mixture(
  m: Modules,
  c: Mixture & { readonly hidden: number; readonly activation: Activation; readonly layer: number },
): FeedForward {
  const { experts, chosen, intermediate, hidden, jitter } = c;
  const router = () => m.at("gate").weight("weight", [experts, hidden]);
  const early = c.routerLast ? undefined : router();
  const at = m.at("experts");
  const opening = at.weight("gate_up_proj", [experts, 2 * intermediate, hidden]);
  const closing = at.weight("down_proj", [experts, hidden, intermediate]);
  const gate = early ?? router();
  /** Rows [N or 1, R, D] through each of N experts: [N, R, D]. */
  const through = (x: Value, of: (weight: () => Weight) => Weight): Value => {
    const both = multiply(x, of(opening), { transposeB: true });
    const half = (number: number) =>
      sliceAxis(both, { axis: 2, start: number * intermediate, size: intermediate });
    return multiply(mul(c.activation(half(0)), half(1)), of(closing), { transposeB: true });
  };
  return (given, { pass, routes }) => {
    const flat = reshape(given, [-1, hidden]), { graph, shape: [tokens] } = flat;
    const x = pass.training && jitter
      ? mul(flat, add(mul(pass.noise(`router.${c.layer}`, flat.shape), 2 * jitter), 1 - jitter))
      : flat;
    const shares = softmax(multiply(x, gate(), { transposeB: true })), places = placesOf(shares);
    const normal = (w: Value) => c.normalized ? div(w, sum(w, { axes: [1], keepDims: true })) : w;
    const taken = cast(less(places, chosen), "f32");
    routes.push({ shares, taken });
    const block = blockSize({ tokens, experts, chosen });
    if (block === 0) {
      const weights = normal(mul(shares, taken));
      const y = through(reshape(x, [1, tokens, hidden]), (weight) => weight());
      const each = mul(y, reshape(transpose(weights), [experts, tokens, 1]));
      return reshape(sum(each, { axes: [0] }), given.shape);
    }
    /** Of the experts of each token [T, k, E], 1 at its number. */
    const isAt = cast(
      equal(reshape(places, [tokens, 1, experts]), iota(graph, [1, chosen, 1], { axis: 1 })),
      "f32",
    );
    const ofExpert = (x: Value) => sum(mul(isAt, reshape(x, [-1, 1, experts])), { axes: [2] });
    const weights = normal(ofExpert(shares));
    const numbers = (x: Value) => reshape(cast(x, "i32"), [-1]);
    const mixed = (y: Value) => {
      const each = mul(reshape(y, [tokens, chosen, hidden]), reshape(weights, [tokens, chosen, 1]));
      return reshape(sum(each, { axes: [1] }), given.shape);
    };
    if (block === 1) {
      const ids = numbers(ofExpert(cast(iota(graph, [1, experts], { axis: 1 }), "f32")));
      const rows = broadcast(reshape(x, [tokens, 1, hidden]), [tokens, chosen, hidden]);
      return mixed(through(reshape(rows, [-1, 1, hidden]), (weight) => pick(weight(), ids)));
    }
    const { rows, expertOf, blocks } = blocksOf(taken, { block, chosen });
    const slots = numbers(ofExpert(rows));
    const number = broadcast(iota(graph, [tokens, 1], { axis: 0 }), [tokens, chosen]);
    const updates = cast(reshape(add(number, 1), [-1, 1]), "f32");
    const source = scatterAdd(updates, slots, { rows: blocks * block });
    const from = gather(x, numbers(max(sub(source, 1), 0)));
    const y = through(reshape(from, [blocks, block, hidden]), (weight) => pick(weight(), expertOf));
    return mixed(gather(reshape(y, [-1, hidden]), slots));
  };
}

/**
 * How many rows of one expert are computed together, with a copy of its weights: 1 where tokens are
 * few, and 0 where all experts on all tokens cost no more than the copies. A copy, and reading what
 * is there, count as so many rows.
 */
function blockSize(of: {
  readonly tokens: number;
  readonly experts: number;
  readonly chosen: number;
}): number {
  const { tokens, experts } = of, sizes = [1, 4, 8, 16, 32, 64, 128, 256];
  const cost = (block: number) => blockCount(block, of) * (block + 33);
  const best = sizes.reduce((a, b) => cost(b) < cost(a) ? b : a);
  return cost(best) < experts * (tokens + 11) ? best : 0;
}

/** Blocks that are enough however tokens are spread. */
function blockCount(
  block: number,
  { tokens, experts, chosen }: Parameters<typeof blockSize>[0],
): number {
  const rows = tokens * chosen;
  return Math.min(rows, Math.floor(rows / block) + experts);
}

/**
 * Sorts tokens by expert, those of each in whole blocks.
 *
 * @param taken 1 where a token goes through an expert [T, E].
 * @returns For each of those the number of its row, f32 [T, E]; and the expert of each block, `i32`.
 */
function blocksOf(
  taken: Value,
  { block, chosen }: { readonly block: number; readonly chosen: number },
): { readonly rows: Value; readonly expertOf: Value; readonly blocks: number } {
  const { graph, shape: [tokens, experts] } = taken;
  const before = (n: number, axis: number) =>
    cast(
      less(iota(graph, [n, n], { axis }), iota(graph, [n, n], { axis: 1 - axis })),
      "f32",
    );
  const count = sum(taken, { axes: [0], keepDims: true });
  const own = floor(mul(add(count, block - 1), 1 / block));
  const first = matmul(own, before(experts, 0));
  const rows = add(matmul(before(tokens, 1), taken), mul(first, block));
  const blocks = blockCount(block, { tokens, experts, chosen });
  const begun = lessEqual(
    reshape(first, [1, experts]),
    cast(iota(graph, [blocks, 1], { axis: 0 }), "f32"),
  );
  const last = sub(sum(cast(begun, "f32"), { axes: [1] }), 1);
  return { rows, expertOf: cast(last, "i32"), blocks };
}
