/**
 * What the parts of a WebGPU device share.
 *
 * @module
 */
import type { KernelFeatures } from "../../../kernels/kernel.ts";
import type { Memory, ScratchPool, StagingPool } from "./memory.ts";
import type { PipelineCache } from "./pipelines.ts";
import type { StateHost } from "./state.ts";
import type { Tuner } from "./tune.ts";
import type { Weights } from "./weights.ts";

/** The inside of a WebGPU device. */
export interface Core extends StateHost {
  /** What everything is made with. */
  readonly gpu: GPUDevice;
  /** What kernels are chosen by. */
  readonly features: KernelFeatures;
  /** Counted buffers. */
  readonly memory: Memory;
  /** Buffers for intermediate values. */
  readonly scratch: ScratchPool;
  /** Buffers for results. */
  readonly staging: StagingPool;
  /** Resident weights. */
  readonly weights: Weights;
  /** Compiled kernels. */
  readonly pipelines: PipelineCache;
  /** The choice between variants of a kernel. */
  readonly tuner: Tuner;
  /** Most bytes of one binding. */
  readonly maxBinding: number;
  /** What the offsets of bound ranges are multiples of. */
  readonly alignment: number;
  /** Runs are checked for validation errors one by one. */
  readonly debug: boolean;
  /** Waits until the device has caught up with all but the last few runs. */
  throttle(): Promise<void>;
}
