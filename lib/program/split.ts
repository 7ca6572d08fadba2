/**
 * placeholder
 *
 * @module
 */
import type { Program } from "./program.ts";

/** identity for now */
export function splitLarge(
  program: Program,
  _options: { readonly maxBytes: number; readonly alignment: number },
): Program {
  return program;
}
