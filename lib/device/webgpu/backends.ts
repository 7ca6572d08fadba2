/**
 * Which graphics interfaces WebGPU may use. Without a Vulkan driver Deno takes OpenGL, which is twenty times slower in software and has no 16-bit
 * floats; here, in tests and in benchmarks it is taken only by name.
 *
 * @module
 */

/** A graphics interface that WebGPU runs on. */
export type Backend = "vulkan" | "metal" | "dx12" | "gl";

/** Those that are taken where nothing else is asked for. */
export const BACKENDS: readonly Backend[] = ["vulkan", "metal", "dx12"];

/** Deno's own setting, which wins where a user has set it. */
export const BACKEND_VARIABLE = "DENO_WEBGPU_BACKEND";

/**
 * Asks the runtime for an adapter on one of these backends.
 *
 * @param options What `navigator.gpu.requestAdapter` takes, and the backends ({@link BACKENDS} by default).
 * @returns null where there is none.
 */
export async function requestAdapter(
  options: GPURequestAdapterOptions & { readonly backends?: readonly Backend[] } = {},
): Promise<GPUAdapter | null> {
  const { backends, ...request } = options;
  const asked = await askFor(backends);
  // deno-lint-ignore no-explicit-any -- not every runtime has it
  const gpu = (globalThis.navigator as any)?.gpu as GPU | undefined;
  const adapter = await gpu?.requestAdapter(request) ?? null;
  return adapter && isOpenGl(adapter) && !asked.includes("gl") ? null : adapter;
}

/** Tells Deno which backends to look at, as far as it may be told, and returns their names. */
async function askFor(backends: readonly Backend[] | undefined): Promise<readonly string[]> {
  const wanted = backends ?? BACKENDS;
  if (typeof Deno === "undefined") return wanted;
  const name = "env", variable = BACKEND_VARIABLE;
  if ((await Deno.permissions.query({ name, variable })).state !== "granted") return wanted;
  const set = Deno.env.get(variable);
  if (set && !backends) return set.split(",").map((s) => s.trim().toLowerCase());
  // Deno reads it when it first looks for adapters.
  Deno.env.set(variable, wanted.join());
  return wanted;
}

/** Of all backends only OpenGL sets no limit to the bindings of a group. */
function isOpenGl({ limits }: GPUAdapter): boolean {
  return limits.maxBindingsPerBindGroup === 2 ** 32 - 1;
}
