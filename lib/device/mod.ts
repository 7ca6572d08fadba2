/**
 * Devices: WebGPU, and the CPU through ONNX Runtime.
 *
 * @module
 */
export { type CpuDevice, type CpuDeviceOptions, createCpuDevice } from "./cpu/mod.ts";
export type { Device, DeviceMemory, Executable, State } from "./device.ts";
export { type DeviceName, openDevice, type OpenDeviceOptions } from "./open.ts";
export {
  createWebGpuDevice,
  type KernelTime,
  type WebGpuDevice,
  type WebGpuOptions,
} from "./webgpu/mod.ts";
export type { AdapterOptions } from "./webgpu/adapter.ts";
export type { Backend } from "./webgpu/backends.ts";
