/**
 * `openDevice`: the device that a name stands for.
 *
 * @module
 */
import { DeviceError, ValueError } from "../errors.ts";
import { checkOptions, show, wholeFrom } from "../options.ts";
import type { Device } from "./device.ts";

/**
 * What can be asked for: hardware WebGPU, else the CPU; the CPU; hardware WebGPU; or WebGPU of any
 * kind, software included.
 */
export type DeviceName = "auto" | "cpu" | "webgpu" | "webgpu-fallback";

/** All names of devices. */
export const DEVICE_NAMES: readonly DeviceName[] = ["auto", "cpu", "webgpu", "webgpu-fallback"];

/** How a device is opened. */
export interface OpenDeviceOptions {
  /** Threads of the CPU device; all cores by default. */
  readonly threads?: number;
}

/**
 * Opens a device. A WebGPU adapter that runs in software is taken only when `"webgpu-fallback"`
 * asks for it: the CPU device is faster.
 *
 * @param device A name, or a device that is open already and is given back.
 * @param options For the device that is opened.
 * @throws {DeviceError} `WEBGPU_MISSING` or `WEBGPU_ADAPTER` where there is no WebGPU,
 * `WEBGPU_FALLBACK` where it runs in software and that was not asked for, `NO_RUNTIME` where ONNX
 * Runtime does not run here.
 * @throws {ValueError} `DEVICE_NAME` for a name that does not exist, `DEVICE_OPTION` for an option
 * that cannot be.
 *
 * @example
 * ```ts
 * import { openDevice } from "@graft/peft";
 * using device = await openDevice("cpu", { threads: 1 });
 * console.log(device.description);
 * ```
 */
export async function openDevice(
  device: DeviceName | Device,
  options: OpenDeviceOptions = {},
): Promise<Device> {
  checkOptions(options, { threads: wholeFrom(1) }, { code: "DEVICE_OPTION", of: "openDevice" });
  if (typeof device === "object" && device !== null && "compile" in device) return device;
  // Neither runtime is loaded before it is needed.
  switch (device) {
    case "cpu": {
      const { createCpuDevice } = await import("./cpu/mod.ts");
      return await createCpuDevice({ threads: options.threads });
    }
    case "webgpu":
    case "webgpu-fallback": {
      const { createWebGpuDevice } = await import("./webgpu/mod.ts");
      const opened = await createWebGpuDevice();
      if (opened.isFallback && device === "webgpu") {
        opened[Symbol.dispose]();
        throw new DeviceError(
          "WEBGPU_FALLBACK",
          `The only WebGPU adapter is ${opened.description}, which runs in software. Use the device "cpu", which is faster, ` +
            `or ask for "webgpu-fallback".`,
          { description: opened.description },
        );
      }
      return opened;
    }
    case "auto":
      try {
        return await openDevice(await mayHaveHardware() ? "webgpu" : "cpu", options);
      } catch (error) {
        // An adapter that runs in software without saying so, or that cannot be opened.
        if (!(error instanceof DeviceError)) throw error;
        return await openDevice("cpu", options);
      }
    default:
      throw new ValueError(
        "DEVICE_NAME",
        `There is no device ${show(device)}; there are ${DEVICE_NAMES.join(", ")}.`,
        { device },
      );
  }
}

/** Asking is quick; opening a software adapter only to close it again takes a fifth of a second. */
async function mayHaveHardware(): Promise<boolean> {
  const { requestAdapter } = await import("./webgpu/backends.ts");
  const adapter = await requestAdapter();
  return adapter !== null && adapter.info.isFallbackAdapter !== true;
}
