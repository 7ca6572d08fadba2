/**
 * Kinds that end in every way that there is, to see that the fuzzer notices.
 *
 * @module
 */
import { assert } from "@std/assert";
import { FileError } from "../../lib/errors.ts";
import type { Kind } from "./kinds.ts";

/** The kinds by what they do. */
export const KINDS: Readonly<Record<string, Kind>> = {
  good: () => () => Promise.resolve(),
  typed: () => () => Promise.reject(new FileError("BAD", "It is bad.")),
  untyped: () => () => Promise.reject(new TypeError("x is undefined")),
  wrong: () => () => Promise.resolve(assert(1 > 2)),
  hanging: () => () => {
    for (;;);
  },
  ending: () => () => Deno.exit(1),
  hungry: () => () => Promise.resolve(void new Uint8Array(600 * 2 ** 20).fill(1)),
};
