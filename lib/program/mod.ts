/**
 * Programs: traced, differentiated, simplified, priced, printed.
 *
 * @module
 */
export * from "./program.ts";
export { grad, gradients } from "./grad.ts";
export { simplify } from "./simplify.ts";
export { checkpoint, expensiveValues } from "./checkpoint.ts";
export { type Cost, cost } from "./cost.ts";
