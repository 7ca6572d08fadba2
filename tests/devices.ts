/**
 * The devices that tests run on: both, always. Each is opened once for a whole process, so that tests share its pipelines and sessions; where
 * there is no adapter, tests fail.
 *
 * @module
 */
import { createCpuDevice } from "../lib/device/cpu/mod.ts";
import type { Device } from "../lib/device/device.ts";
import { createWebGpuDevice } from "../lib/device/webgpu/mod.ts";

/** The kinds of device. */
export const DEVICE_KINDS = ["cpu", "webgpu"] as const;

/** A kind of device. */
export type DeviceKind = typeof DEVICE_KINDS[number];

const opened = new Map<DeviceKind, Promise<Device>>();

/** The one device of a kind that this process's tests share. */
export function testDevice(kind: DeviceKind): Promise<Device> {
  let device = opened.get(kind);
  if (!device) {
    device = kind === "cpu"
      ? Promise.resolve(createCpuDevice())
      : Promise.resolve(createWebGpuDevice({ tune: false }));
    opened.set(kind, device);
  }
  return device;
}

/** Registers a test for each device. Sessions and pipelines outlive a test, so resources are not counted. */
export function testOnDevices(name: string, fn: (device: Device) => Promise<void>): void {
  for (const kind of DEVICE_KINDS) {
    Deno.test({
      name: `${name} (${kind})`,
      sanitizeOps: false,
      sanitizeResources: false,
      fn: async () => await fn(await testDevice(kind)),
    });
  }
}
