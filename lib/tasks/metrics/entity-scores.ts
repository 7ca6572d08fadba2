/**
 * How well named entities were found.
 *
 * @module
 */
import { pairCount, ratio } from "./class-scores.ts";

/** What {@link entityScores} gives. */
export interface EntityScores {
  /** Share of the entities that were found which are right. */
  readonly precision: number;
  /** Share of the entities to be found which were. */
  readonly recall: number;
  /** Harmonic mean of both. */
  readonly f1: number;
}

/**
 * Precision, recall and F1 of whole entities, as in seqeval: an entity counts where its type, its
 * first and its last word are right. Tags are `O`, or `B`, `I`, `E` or `S` with `-` and a type, in
 * any of the schemes IOB1, IOB2, IOE and IOBES.
 *
 * @param predicted The tags of each row.
 * @param expected The right ones.
 * @throws {ShapeError} `METRIC_SHAPE` where there are not as many of both.
 *
 * @example
 * ```ts
 * import { entityScores } from "@graft/peft";
 * console.log(entityScores([["B-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "B-LOC"]]).f1); // 0.5
 * ```
 */
export function entityScores(
  predicted: readonly (readonly string[])[],
  expected: readonly (readonly string[])[],
): EntityScores {
  pairCount(predicted, expected);
  let hits = 0, found = 0, wanted = 0;
  expected.forEach((row, i) => {
    const own = new Set(entitiesOf(predicted[i])), right = entitiesOf(row);
    hits += right.filter((entity) => own.has(entity)).length;
    found += own.size;
    wanted += right.length;
  });
  return {
    precision: ratio(hits, found),
    recall: ratio(hits, wanted),
    f1: ratio(2 * hits, found + wanted),
  };
}

/** Whether tags name entities. */
export function areEntityTags(tags: readonly string[]): boolean {
  return tags.some((tag) => tag !== "O") && tags.every((tag) => /^(O|[BIES](-.+)?)$/.test(tag));
}

/** The entities of a row of tags: type, first and last position of each. */
function entitiesOf(tags: readonly string[]): string[] {
  const entities: string[] = [];
  let place = "O", type = "", first = 0;
  [...tags, "O"].forEach((tag, i) => {
    const [nextPlace, nextType] = [tag[0], tag.slice(tag[1] === "-" ? 2 : 1)];
    const isAnew = "BS".includes(nextPlace) || "OES".includes(place) || nextType !== type;
    if (place !== "O" && (nextPlace === "O" || isAnew)) {
      entities.push(`${type} ${first} ${i - 1}`);
    }
    if (nextPlace !== "O" && isAnew) first = i;
    [place, type] = [nextPlace, nextType];
  });
  return entities;
}
