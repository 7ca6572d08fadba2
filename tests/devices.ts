/**
 * The devices that tests run on. Each is opened once for a whole process, so that tests share its pipelines and sessions; where there is no adapter,
 * tests fail. On WebGPU they run the kernels that users' GPUs run, whatever the adapter is.
 *
 * @module
 */
import { type CpuDevice, createCpuDevice } from "../lib/device/cpu/mod.ts";
import type { Device } from "../lib/device/device.ts";
import { createWebGpuDevice, type WebGpuDevice } from "../lib/device/webgpu/mod.ts";
import type { Program } from "../lib/program/program.ts";
import { createKernelBook, type KernelBook } from "./kernel-book.ts";

/** The kinds of device. */
export const DEVICE_KINDS = ["cpu", "webgpu"] as const;

/** A kind of device. */
export type DeviceKind = typeof DEVICE_KINDS[number];

let cpu: Promise<CpuDevice> | undefined;
let webgpu: Promise<WebGpuDevice> | undefined;
let recorder: Promise<Recorder> | undefined;

const openGpu = () => webgpu ??= createWebGpuDevice({ tune: false, software: false });

/** The one device of a kind that this process's tests share. */
export function testDevice(kind: DeviceKind): Promise<Device> {
  return kind === "cpu" ? cpu ??= createCpuDevice() : openGpu();
}

type Check = (device: Device) => Promise<void>;

/** Sessions and pipelines outlive a test, so resources are not counted. */
function register(name: string, fn: (t: Deno.TestContext) => Promise<void>): void {
  Deno.test({ name, sanitizeOps: false, sanitizeResources: false, fn });
}

/** Registers a test for each device. */
export function testOnDevices(name: string, fn: Check): void {
  for (const kind of DEVICE_KINDS) {
    register(`${name} (${kind})`, async () => await fn(await testDevice(kind)));
  }
}

/** Registers a test that runs on the CPU alone. */
export function testOnCpu(name: string, fn: Check): void {
  register(name, async () => await fn(await testDevice("cpu")));
}

/**
 * Registers a test that runs on the CPU, and on WebGPU where its programs hold a kernel that has not been right yet in a test of this run. All other programs
 * are the same kernels on other sizes and values, which the CPU has shown to be the right program.
 */
export function testOnceOnWebGpu(name: string, fn: Check): void {
  register(name, async (t) => {
    const { device, take, book } = await (recorder ??= createRecorder());
    await t.step("cpu", async () => await fn(device));
    const fresh = await book.unknown(take());
    if (fresh.length === 0) return;
    if (await t.step("webgpu", async () => await fn(await openGpu()))) book.add(fresh);
  });
}

/** The CPU device, which remembers what it compiled. */
interface Recorder {
  readonly device: Device;
  readonly book: KernelBook;
  /** The programs since the last call. */
  take(): readonly Program[];
}

async function createRecorder(): Promise<Recorder> {
  const gpu = await openGpu(), device = await testDevice("cpu");
  const book = createKernelBook(gpu);
  let programs: Program[] = [];
  return {
    device: {
      ...device,
      // Programs read the types that a GPU keeps weights in, so that they are those that it would run.
      weightType: (dtype) => gpu.weightType(dtype),
      compile(program) {
        programs.push(program);
        return device.compile(program);
      },
    },
    book,
    take() {
      const taken = programs;
      programs = [];
      return taken;
    },
  };
}
