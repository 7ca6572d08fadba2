/**
 * PLBART (Ahmad et al., 2021, arXiv:2103.06333): BART for programs.
 *
 * @module
 */
import type { Architecture } from "../model/architecture.ts";
import { bartClasses, bartRules } from "./bart.ts";

const rules = bartRules();

/** PLBART. */
export const plbart: Architecture = {
  ...rules,
  name: "plbart",
  modelTypes: ["plbart"],
  heads: { ...rules.heads, SEQ_CLS: bartClasses },
  decoderStart: "last token",
};
