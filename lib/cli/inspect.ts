/**
 * `inspect`: what a checkpoint or an adapter holds.
 *
 * @module
 */
import type { Command } from "commander";
import { readAdapter } from "../adapters/checkpoint/read-adapter.ts";
import { FileError } from "../errors.ts";
import { openCheckpoint } from "../io/checkpoint.ts";
import { exists, locate } from "../io/locate.ts";
import { openSafetensors } from "../io/safetensors.ts";
import { byteLength, type DType, sizeOf } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { CommandContext } from "./context.ts";
import { bytes, count, table } from "./format.ts";

interface InspectFlags {
  readonly json?: boolean;
  readonly revision?: string;
  readonly file?: string;
}

/** What was found in a place. */
interface Contents {
  readonly kind: "checkpoint" | "adapter" | "safetensors";
  readonly format: string;
  readonly files?: readonly string[];
  readonly config?: Readonly<Record<string, unknown>>;
  readonly generationConfig?: Readonly<Record<string, unknown>>;
  readonly metadata?: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/** Adds the command. */
export function addInspectCommand(program: Command, context: CommandContext): void {
  program.command("inspect")
    .summary("show the config, tensors and sizes of a checkpoint or adapter")
    .description(
      "Shows the config, the tensors and the sizes of a checkpoint, an adapter or a safetensors file. Only headers are read.",
    )
    .argument(
      "<path>",
      "folder of a checkpoint or adapter, .gguf or .safetensors file, or id on the Hugging Face hub",
    )
    .option("--json", "print JSON")
    .option("--revision <name>", "branch, tag or commit on the hub")
    .option("--file <name>", "file of weights, where there are several")
    .addHelpText(
      "after",
      `
Examples:
  inspect SmolLM2-135M-Instruct.Q4_1.gguf
  inspect ./out --json`,
    ).action(async (path: string, flags: InspectFlags) => {
      const contents = await open(path, flags);
      context.out(
        flags.json
          ? JSON.stringify(asJson(path, contents), null, 2) + "\n"
          : asText(path, contents),
      );
    });
}

async function open(path: string, flags: InspectFlags): Promise<Contents> {
  const place = await locate(path);
  if (place.kind === "folder" && await exists(`${place.path}/adapter_config.json`)) {
    return await openAdapter(path, flags);
  }
  if (place.kind === "file" && place.path.endsWith(".safetensors")) {
    const { tensors, metadata } = await openSafetensors(place.path);
    return { kind: "safetensors", format: "safetensors", tensors, metadata };
  }
  try {
    const { config, generationConfig, parameters, source } = await openCheckpoint(path, flags);
    return {
      kind: "checkpoint",
      format: source.format,
      files: source.files,
      config,
      generationConfig,
      tensors: parameters,
    };
  } catch (error) {
    // A repository on the hub does not say beforehand which of the two it is.
    if (place.kind !== "hub" || !(error instanceof FileError)) throw error;
    return await openAdapter(path, flags).catch(() => {
      throw error;
    });
  }
}

async function openAdapter(path: string, flags: InspectFlags): Promise<Contents> {
  const { config, tensors, metadata } = await readAdapter(path, { revision: flags.revision });
  return {
    kind: "adapter",
    format: "safetensors",
    config: { ...config },
    tensors,
    metadata,
  };
}

interface Totals {
  readonly tensors: number;
  readonly parameters: number;
  readonly bytes: number;
}

function totalsByType(tensors: ReadonlyMap<string, Tensor>): Map<DType, Totals> {
  const totals = new Map<DType, Totals>();
  for (const { dtype, shape } of tensors.values()) {
    const old = totals.get(dtype) ?? { tensors: 0, parameters: 0, bytes: 0 };
    totals.set(dtype, {
      tensors: old.tensors + 1,
      parameters: old.parameters + sizeOf(shape),
      bytes: old.bytes + byteLength(dtype, shape),
    });
  }
  return totals;
}

function sum(totals: ReadonlyMap<DType, Totals>): Totals {
  const all = [...totals.values()];
  const of = (name: keyof Totals) => all.reduce((n, t) => n + t[name], 0);
  return { tensors: of("tensors"), parameters: of("parameters"), bytes: of("bytes") };
}

function asJson(path: string, contents: Contents): unknown {
  const { tensors, ...rest } = contents;
  const totals = totalsByType(tensors);
  return {
    path,
    ...rest,
    totals: sum(totals),
    dtypes: Object.fromEntries(totals),
    tensors: [...tensors].map(([name, { dtype, shape }]) => ({
      name,
      dtype,
      shape,
      bytes: byteLength(dtype, shape),
    })),
  };
}

function asText(path: string, contents: Contents): string {
  const { kind, format, config = {}, metadata = {}, tensors } = contents;
  const totals = totalsByType(tensors);
  const all = sum(totals);
  const fields = Object.entries(config).filter(([, value]) => value !== null);
  const parts = [
    `${path}: ${kind}, ${format}\n`,
    ...fields.map(([name, value]) => `  ${name}: ${shown(value)}\n`),
    ...Object.entries(metadata).map(([name, value]) => `  metadata ${name}: ${shown(value)}\n`),
    "\n",
    table(
      [...tensors].map(([name, { dtype, shape }]) => [
        name,
        dtype,
        `[${shape.join(", ")}]`,
        bytes(byteLength(dtype, shape)),
      ]),
      { right: [3] },
    ),
    "\n",
    table(
      [
        ["type", "tensors", "parameters", "bytes"],
        ...[...totals].map(([dtype, t]) => totalsRow(dtype, t)),
        ...(totals.size === 1 ? [] : [totalsRow("all", all)]),
      ],
      { right: [1, 2, 3] },
    ),
  ];
  return parts.join("");
}

function totalsRow(name: string, totals: Totals): string[] {
  return [name, count(totals.tensors), count(totals.parameters), bytes(totals.bytes)];
}

function shown(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 200 ? `${text.slice(0, 197)}...` : text;
}
