/**
 * How distances between tokens take part in DeBERTa's scores.
 *
 * @module
 */
import type { ModelConfig } from "../model/architecture.ts";
import { configReader } from "./config-reader.ts";

/** How distances take part in scores. */
export interface Distances {
  /** Whether there is a table of them. */
  readonly isUsed: boolean;
  /** Buckets of distances in one direction. */
  readonly span: number;
  /** Distances up to half as many have a bucket each where there are buckets, others share them. */
  readonly buckets: number;
  /** The largest distance. */
  readonly largest: number;
  /** Whether the projections of tokens serve for distances too. */
  readonly shared: boolean;
  /** Whether queries are compared with distances. */
  readonly byQuery: boolean;
  /** Whether keys are. */
  readonly byKey: boolean;
  /** What scores are the sum of, which transformers counts where there is no table, too. */
  readonly parts: number;
}

/** What a config says about them. */
export function readDistances(config: ModelConfig): Distances {
  const { size, number, boolean } = configReader(config);
  const isUsed = boolean("relative_attention", false), kinds = words(config.pos_att_type);
  const asked = number("max_relative_positions", -1), buckets = number("position_buckets", -1);
  const largest = asked < 1 ? size("max_position_embeddings", 512) : asked;
  const [byQuery, byKey] = ["c2p", "p2c"].map((kind) => kinds.includes(kind));
  return {
    isUsed,
    span: buckets > 0 ? buckets : largest,
    buckets,
    largest,
    shared: boolean("share_att_key", false),
    byQuery: isUsed && byQuery,
    byKey: isUsed && byKey,
    parts: 1 + Number(byQuery) + Number(byKey),
  };
}

/** What a config lists, in one text or in several. */
export function words(given: unknown): string[] {
  const list = typeof given === "string" ? given.toLowerCase().split("|") : given;
  return Array.isArray(list) ? list.map((word) => String(word).trim()) : [];
}

/** The row of the table for a distance: those far away share rows in steps of its logarithm. */
export function distanceRow(distance: number, { span, buckets, largest }: Distances): number {
  let place = distance;
  if (buckets > 0 && largest > 0) {
    const middle = Math.floor(buckets / 2), far = Math.abs(distance);
    if (far > middle) {
      // In single precision, as torch computes it.
      const log = (x: number) => Math.fround(Math.log(Math.fround(x)));
      const ratio = Math.fround(log(far / middle) / log((largest - 1) / middle));
      place = Math.sign(distance) *
        (Math.ceil(Math.fround(ratio * (middle - 1))) + middle);
    }
  }
  return Math.min(Math.max(place + span, 0), 2 * span - 1);
}
