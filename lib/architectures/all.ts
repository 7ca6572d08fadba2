/**
 * The families that the library brings. Another one is a file in this folder and a line here.
 *
 * @module
 */
export { bert } from "./bert.ts";
export { gpt2 } from "./gpt2.ts";
export { llama } from "./llama.ts";
export { t5 } from "./t5.ts";
