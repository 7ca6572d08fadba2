/**
 * Sessions of ONNX Runtime.
 *
 * @module
 */
import type * as Ort from "onnxruntime-node";
import { DeviceError } from "../../errors.ts";
import type { OnnxType } from "../../ops/onnx-rule.ts";
import type { TypedArray } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { encodeModel, type OnnxGraph, type OnnxInitializer } from "./onnx-model.ts";

/** The module `onnxruntime-node`. */
export type Runtime = typeof Ort;

/** A session. */
export type Session = Ort.InferenceSession;

/** A session, and the weights that are part of it. */
export interface PlanSession {
  readonly session: Session;
  readonly weights: readonly WeakRef<Tensor>[];
}

/** A tensor as ONNX Runtime takes and gives it. */
export type Feed = Ort.Tensor;

/** Contents from this size on go beside the model, which spares a copy and keeps its protobuf message under the limit of 2 GiB. */
const LARGEST_INLINE = 1 << 16;

/** ONNX Runtime's names of element types. */
const FEED_TYPES = {
  f32: "float32",
  i32: "int32",
  i64: "int64",
  u32: "uint32",
  u8: "uint8",
  bool: "bool",
} as const;

/** A typed array as a tensor, without a copy. */
export function feedOf(
  runtime: Runtime,
  array: TypedArray,
  spec: { readonly type: OnnxType; readonly shape: readonly number[] },
): Feed {
  return new runtime.Tensor(
    FEED_TYPES[spec.type as keyof typeof FEED_TYPES],
    array as Float32Array,
    spec.shape,
  );
}

/**
 * Opens a session.
 *
 * @throws {DeviceError} which names the operation that ONNX Runtime refused.
 */
export async function createSession(
  graph: OnnxGraph,
  options: { readonly runtime: Runtime; readonly threads: number },
): Promise<Session> {
  const externalData: { path: string; data: Uint8Array }[] = [];
  const initializers = graph.initializers.map((i): OnnxInitializer => {
    if (!i.data || i.data.byteLength < LARGEST_INLINE) return i;
    const { buffer, byteOffset, byteLength } = i.data;
    const location = `data${externalData.length}`;
    externalData.push({ path: location, data: new Uint8Array(buffer, byteOffset, byteLength) });
    return { name: i.name, type: i.type, shape: i.shape, external: { location } };
  });
  // Of a node's inputs the runtime computes the one that comes last in the model first. Backwards, that is the order of the program, which keeps
  // few values alive; as it is, it would compute the gradient of the first layer before those of the others.
  const nodes = graph.nodes.toReversed();
  const model = encodeModel({ ...graph, nodes, initializers });
  try {
    return await options.runtime.InferenceSession.create(model, {
      intraOpNumThreads: options.threads,
      interOpNumThreads: 1,
      // The program was prepared for this; ONNX Runtime's own passes cost time and undo rematerialisation.
      graphOptimizationLevel: "disabled",
      // What goes wrong is thrown; the runtime need not print it too.
      logSeverityLevel: 4,
      // Planning all values into one block keeps the first run's blocks too: nearly twice the memory, and no faster.
      enableMemPattern: false,
      ...(externalData.length ? { externalData } : {}),
    });
  } catch (error) {
    throw refused("refused the program", error);
  }
}

/** Runs a session. */
export async function runSession(
  session: Session,
  feeds: Readonly<Record<string, Feed>>,
): Promise<Readonly<Record<string, Feed>>> {
  try {
    return await session.run(feeds);
  } catch (error) {
    throw refused("stopped while it ran the program", error);
  }
}

/** Nodes are named after the operation they come from, and the runtime's messages name the node. */
function refused(what: string, error: unknown): DeviceError {
  const reason = error instanceof Error ? error.message : String(error);
  const op = /\b([A-Za-z]+)#\d+/.exec(reason)?.[1];
  return new DeviceError(
    "ONNX_RUNTIME",
    `ONNX Runtime ${what}${op ? ` in the operation "${op}"` : ""}: ${reason}`,
    { op, reason },
  );
}
