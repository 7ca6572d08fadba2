/**
 * Finds a WebGPU adapter and opens it with all it can do.
 *
 * @module
 */
import { DeviceError } from "../../errors.ts";
import { type Backend, requestAdapter } from "./backends.ts";
import type { KernelFeatures } from "../../../kernels/kernel.ts";

/** Which adapter to ask for. */
export interface AdapterOptions {
  /** `"high-performance"` by default. */
  readonly powerPreference?: GPUPowerPreference;
  /** Takes a software adapter even where there is a GPU. */
  readonly forceFallbackAdapter?: boolean;
  /** Where to look for it: Vulkan, Metal and DX12 by default. OpenGL (`"gl"`) is slow, and is taken only when it is named here. */
  readonly backends?: readonly Backend[];
  /** Takes the kernels that suit a processor, or those that suit a GPU; by default as the adapter is. */
  readonly software?: boolean;
}

/** An adapter that was opened. */
export interface OpenAdapter {
  /** What everything is made with. */
  readonly gpu: GPUDevice;
  /** The adapter's own description. */
  readonly description: string;
  /** A software implementation, which the CPU device outruns. */
  readonly isFallback: boolean;
  /** What kernels are chosen by. */
  readonly features: KernelFeatures;
}

/** Limits that are raised to what the adapter has. */
const LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "minStorageBufferOffsetAlignment",
] as const;

const FEATURES = ["shader-f16", "subgroups", "timestamp-query"] as GPUFeatureName[];

/** Names that software implementations go by. */
const SOFTWARE = /llvmpipe|lavapipe|swiftshader|softpipe|basic render/i;

/**
 * Opens an adapter.
 *
 * @throws {DeviceError} `WEBGPU_MISSING` where the runtime has no WebGPU, `WEBGPU_ADAPTER` where there is no adapter or it cannot be opened.
 */
export async function openAdapter(options: AdapterOptions = {}): Promise<OpenAdapter> {
  // deno-lint-ignore no-explicit-any -- not every runtime has it
  if (!(globalThis.navigator as any)?.gpu) {
    throw new DeviceError(
      "WEBGPU_MISSING",
      "This runtime has no WebGPU (navigator.gpu). Use Deno 2 or a browser with WebGPU, or the CPU device.",
    );
  }
  const adapter = await requestAdapter({
    backends: options.backends,
    powerPreference: options.powerPreference ?? "high-performance",
    ...(options.forceFallbackAdapter ? { forceFallbackAdapter: true } : {}),
  });
  if (!adapter) {
    throw new DeviceError(
      "WEBGPU_ADAPTER",
      "No WebGPU adapter was found on Vulkan, Metal or DX12. Install a Vulkan driver (on Debian mesa-vulkan-drivers has a software one), or use the CPU device; OpenGL, which is slow, is taken only where it is asked for by name.",
    );
  }
  const requiredFeatures = FEATURES.filter((f) => adapter.features.has(f));
  const requiredLimits = Object.fromEntries(LIMITS.map((l) => [l, adapter.limits[l]]));
  let device: GPUDevice;
  try {
    device = await adapter.requestDevice({ requiredFeatures, requiredLimits });
  } catch (cause) {
    throw new DeviceError(
      "WEBGPU_ADAPTER",
      `The WebGPU adapter refused to open: ${(cause as Error).message}`,
    );
  }
  const { info } = adapter;
  const description = [info.description, info.device, info.vendor].find((s) => s) ?? "unnamed";
  const isFallback = info.isFallbackAdapter === true ||
    // deno-lint-ignore no-explicit-any -- where it was before it moved to `info`
    (adapter as any).isFallbackAdapter === true ||
    SOFTWARE.test(`${info.description} ${info.vendor} ${info.architecture} ${info.device}`);
  return {
    gpu: device,
    description,
    isFallback,
    features: featuresOf(device, { software: options.software ?? isFallback }),
  };
}

/** What kernels are chosen by on a device. */
export function featuresOf(
  { features, limits }: GPUDevice,
  { software }: { readonly software: boolean },
): KernelFeatures {
  return {
    f16: features.has("shader-f16"),
    subgroups: features.has("subgroups" as GPUFeatureName),
    software,
    workgroupStorage: limits.maxComputeWorkgroupStorageSize,
    workgroupInvocations: limits.maxComputeInvocationsPerWorkgroup,
  };
}
