/**
 * Attention: which kernels for which sizes on which adapter.
 *
 * @module
 */
import type { Kernel, KernelFeatures } from "./kernel.ts";
import { decodeAttention, isDecodeProblem } from "./attention-decode.ts";
import { flashAttention } from "./attention-flash.ts";
import type { AttentionPart, AttentionProblem } from "./attention-problem.ts";
import { isRegisterProblem, registerAttention } from "./attention-register.ts";

/** Kernels of one part of attention, best guess first. */
export function attentionKernels(
  problem: AttentionProblem,
  options: { readonly part: AttentionPart; readonly features: KernelFeatures },
): readonly Kernel[] {
  const { part, features } = options;
  const kernels: Kernel[] = [];
  if (part === "output" && isDecodeProblem(problem)) kernels.push(decodeAttention(problem));
  if (features.software) {
    if (!kernels.length && isRegisterProblem(problem)) {
      kernels.push(registerAttention(problem, part));
    }
    if (kernels.length) return kernels;
  }
  kernels.push(flashAttention(problem, part));
  return kernels;
}
