/**
 * The methods that the library brings. Another one is a file in this folder and a line here.
 *
 * @module
 */
export * from "./adalora.ts";
export * from "./adamss/adamss.ts";
export * from "./adaption-prompt.ts";
export * from "./c3a.ts";
export * from "./deft.ts";
export * from "./delora.ts";
export * from "./fourierft.ts";
export * from "./frod.ts";
export * from "./glora.ts";
export * from "./gralora.ts";
export * from "./hira.ts";
export * from "./ia3.ts";
export * from "./ln-tuning.ts";
export * from "./loha.ts";
export * from "./lokr.ts";
export * from "./lora/lora.ts";
export * from "./miss.ts";
export * from "./oft.ts";
export * from "./osf.ts";
export * from "./peanut.ts";
export * from "./poly.ts";
export * from "./prefix-tuning.ts";
export * from "./prompt-tuning.ts";
export * from "./psoft.ts";
export * from "./pvera.ts";
export * from "./randlora.ts";
export * from "./shira.ts";
export * from "./tinylora.ts";
export * from "./trainable-tokens.ts";
export * from "./unilora.ts";
export * from "./vblora.ts";
export * from "./vera.ts";
export * from "./waveft.ts";
