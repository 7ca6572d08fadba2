/**
 * ONNX models as bytes: the part of the format that programs need, written with the protobuf library's encoder. Field numbers are
 * those of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
 *
 * @module
 */
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { MICROSOFT, ONNX_TYPES, type OnnxAttribute, type OnnxType } from "../../ops/onnx-rule.ts";
import type { TypedArray } from "../../tensor/dtype.ts";

/** A value's name and type. Of a graph that is opened for several programs some dimensions have names. */
export interface OnnxValueInfo<Dimension extends number | string = number | string> {
  readonly name: string;
  readonly type: OnnxType;
  readonly shape: readonly Dimension[];
}

/** A constant of the graph: contents in the model, or in a named block of external data. */
export interface OnnxInitializer extends OnnxValueInfo<number> {
  /** Little-endian contents. */
  readonly data?: TypedArray;
  /** Where the contents lie when they are not in the model. Without an offset they are the whole of that file. */
  readonly external?: {
    readonly location: string;
    readonly offset?: number;
    readonly length?: number;
  };
}

/** One operator call. */
export interface OnnxNode {
  readonly operator: string;
  readonly domain: string;
  readonly name: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: Readonly<Record<string, OnnxAttribute>>;
}

/** A graph of operator calls, in an order in which each comes after its inputs. */
export interface OnnxGraph<Dimension extends number | string = number | string> {
  readonly inputs: readonly OnnxValueInfo<Dimension>[];
  readonly outputs: readonly OnnxValueInfo<Dimension>[];
  readonly initializers: readonly OnnxInitializer[];
  readonly nodes: readonly OnnxNode[];
  /** What is known of values between. */
  readonly values?: readonly OnnxValueInfo<Dimension>[];
  /** Text pairs that travel with the model. */
  readonly metadata?: Readonly<Record<string, string>>;
}

const OPSET = 21;
const IR_VERSION = 10;

/** Encodes a graph as an ONNX `ModelProto`. */
export function encodeModel(graph: OnnxGraph): Uint8Array<ArrayBuffer> {
  const w = new BinaryWriter();
  integer(w, 1, IR_VERSION);
  text(w, 2, "graft");
  message(w, 7, () => writeGraph(w, graph));
  for (const [domain, version] of [["", OPSET], [MICROSOFT, 1]] as const) {
    message(w, 8, () => {
      text(w, 1, domain);
      integer(w, 2, version);
    });
  }
  for (const [key, value] of Object.entries(graph.metadata ?? {})) {
    message(w, 14, () => {
      text(w, 1, key);
      text(w, 2, value);
    });
  }
  return w.finish();
}

function writeGraph(w: BinaryWriter, graph: OnnxGraph): void {
  for (const node of graph.nodes) message(w, 1, () => writeNode(w, node));
  text(w, 2, "program");
  for (const tensor of graph.initializers) message(w, 5, () => writeTensor(w, tensor));
  for (const info of graph.inputs) message(w, 11, () => writeInfo(w, info));
  for (const info of graph.outputs) message(w, 12, () => writeInfo(w, info));
  for (const info of graph.values ?? []) message(w, 13, () => writeInfo(w, info));
}

function writeNode(w: BinaryWriter, node: OnnxNode): void {
  for (const name of node.inputs) text(w, 1, name);
  for (const name of node.outputs) text(w, 2, name);
  text(w, 3, node.name);
  text(w, 4, node.operator);
  for (const [name, value] of Object.entries(node.attributes)) {
    message(w, 5, () => writeAttribute(w, name, value));
  }
  if (node.domain) text(w, 7, node.domain);
}

/** Numbers of `AttributeProto.AttributeType`. */
const KIND = { float: 1, int: 2, string: 3, floats: 6, ints: 7 } as const;

function writeAttribute(w: BinaryWriter, name: string, value: OnnxAttribute): void {
  text(w, 1, name);
  if (typeof value === "number") {
    integer(w, 3, value);
    integer(w, 20, KIND.int);
  } else if (typeof value === "string") {
    text(w, 4, value);
    integer(w, 20, KIND.string);
  } else if ("float" in value) {
    w.tag(2, WireType.Bit32).float(value.float);
    integer(w, 20, KIND.float);
  } else if ("floats" in value) {
    for (const f of value.floats) w.tag(7, WireType.Bit32).float(f);
    integer(w, 20, KIND.floats);
  } else {
    for (const i of value) integer(w, 8, i);
    integer(w, 20, KIND.ints);
  }
}

function writeTensor(w: BinaryWriter, tensor: OnnxInitializer): void {
  for (const d of tensor.shape) integer(w, 1, d);
  integer(w, 2, ONNX_TYPES[tensor.type]);
  text(w, 8, tensor.name);
  if (tensor.data) {
    const { buffer, byteOffset, byteLength } = tensor.data;
    w.tag(9, WireType.LengthDelimited).bytes(new Uint8Array(buffer, byteOffset, byteLength));
  } else {
    for (const [key, value] of Object.entries(tensor.external!)) {
      message(w, 13, () => {
        text(w, 1, key);
        text(w, 2, String(value));
      });
    }
    integer(w, 14, 1);
  }
}

function writeInfo(w: BinaryWriter, info: OnnxValueInfo): void {
  text(w, 1, info.name);
  message(w, 2, () =>
    message(w, 1, () => {
      integer(w, 1, ONNX_TYPES[info.type]);
      message(w, 2, () => {
        for (const d of info.shape) {
          message(w, 1, () => typeof d === "number" ? integer(w, 1, d) : text(w, 2, d));
        }
      });
    }));
}

function message(w: BinaryWriter, field: number, content: () => void): void {
  w.tag(field, WireType.LengthDelimited).fork();
  content();
  w.join();
}

function integer(w: BinaryWriter, field: number, value: number): void {
  w.tag(field, WireType.Varint).int64(value);
}

function text(w: BinaryWriter, field: number, value: string): void {
  w.tag(field, WireType.LengthDelimited).string(value);
}
