/**
 * Entries of a whaler's log book, made up from a few lists: a small data set whose style is plain to see.
 *
 * @module
 */
import { randomUniform } from "../../mod.ts";

const WINDS = ["N", "NE", "E", "SE", "S", "SW", "W", "NW"];
const FORCES = ["light", "fresh", "strong", "a gale"];
const SKIES = ["clear", "cloudy", "rain", "thick fog", "squalls"];
const SIGHTINGS = [
  "No whales.",
  "One whale seen.",
  "Two whales seen.",
  "A pod to leeward.",
  "Sperm whale raised.",
];
const WORK = [
  "Crew mending sail.",
  "Boats lowered, none taken.",
  "One taken, trying out.",
  "Cooper at the casks.",
  "All hands on deck.",
];

/** Entries such as `Day 12. Wind NE, fresh. Sky clear. Two whales seen. Crew mending sail. 41 barrels.` */
export function logBook(options: { readonly entries: number; readonly seed: number }): string[] {
  let index = 0;
  const pick = <T>(list: readonly T[]): T =>
    list[Math.floor(randomUniform({ seed: options.seed, index: index++ }) * list.length)];
  return Array.from(
    { length: options.entries },
    (_, i) =>
      `Day ${i % 90 + 1}. Wind ${pick(WINDS)}, ${pick(FORCES)}. Sky ${pick(SKIES)}. ${
        pick(SIGHTINGS)
      } ${pick(WORK)} ${i % 90 + pick([0, 1, 2, 3])} barrels.`,
  );
}
