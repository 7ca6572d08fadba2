/**
 * `merge`: an adapter's update put into the weights of its base.
 *
 * @module
 */
import { type Command, Option } from "commander";
import { mergeAndUnload } from "../adapters/merge/merge.ts";
import type { MergeCertificate } from "../adapters/merge/merge-certificate.ts";
import { ValueError } from "../errors.ts";
import { saveModel } from "../io/save-model.ts";
import { NOT_NEGATIVE } from "../options.ts";
import type { CommandContext } from "./context.ts";
import { bytes } from "./format.ts";
import {
  addModelOptions,
  byteSize,
  type ModelFlags,
  numeric,
  withAdapters,
  withModel,
} from "./options.ts";

interface MergeFlags extends ModelFlags {
  readonly adapter: readonly string[];
  readonly out: string;
  readonly saveDtype?: "f32" | "f16" | "bf16";
  readonly maxShardSize: number;
  readonly tolerance?: number;
  readonly overwrite?: boolean;
}

/** Adds the command. */
export function addMergeCommand(program: Command, context: CommandContext): void {
  const command = program.command("merge")
    .summary("write a full checkpoint with an adapter merged into it")
    .description(
      "Puts adapters into the weights of their base and writes a checkpoint folder that needs no adapter any more: config.json, " +
        "model.safetensors (in shards where it is large) and the tokenizer. The folder appears when it is complete.",
    )
    .requiredOption(
      "--adapter <folder...>",
      "adapter to merge: a folder, or an id on the hub; several are merged in order",
    )
    .requiredOption("--out <folder>", "where to write")
    .addOption(
      new Option(
        "--save-dtype <type>",
        "type of all weights that are written (default: as in the base; f32 where it is block-quantized)",
      ).choices(["f32", "f16", "bf16"]),
    )
    .addOption(
      new Option("--max-shard-size <size>", "size of a file of weights at most").argParser(byteSize)
        .default(5e9, "5GB"),
    )
    .addOption(
      new Option(
        "--tolerance <share>",
        "say how exact the merge is, and refuse where more than this share of the adapter's change " +
          "to a layer is lost to rounding",
      ).argParser(numeric(NOT_NEGATIVE)),
    )
    .option("--overwrite", "replace a checkpoint that is there");
  addModelOptions(command, { device: "cpu" }).addHelpText(
    "after",
    `
Examples:
  merge ./llama --adapter ./out --out ./merged
  merge SmolLM2-135M-Instruct.Q4_1.gguf --adapter ./out --out ./merged \\
    --save-dtype bf16`,
  ).action(async (source: string, flags: MergeFlags) => {
    await refuseExisting(flags);
    await withModel(source, { flags, context, adapter: flags.adapter[0] }, async (base) => {
      const model = await withAdapters(base, flags.adapter, context);
      if (model.type !== "peft") {
        throw new ValueError("NOTHING_TO_MERGE", "No adapter was given.");
      }
      const { tolerance } = flags;
      const dtype = flags.saveDtype ?? (base.dtype === "f64" ? "f32" : base.dtype);
      const { model: merged, certificate } = tolerance === undefined
        ? { model: mergeAndUnload(model, { dtype }), certificate: undefined }
        : await mergeAndUnload(model, { dtype, certificate: true, tolerance });
      await saveModel(merged, flags.out, { dtype, maxShardSize: flags.maxShardSize });
      if (certificate) context.out(describeCertificate(certificate));
      context.out(`${flags.out}: ${bytes(await folderSize(flags.out))}\n`);
    });
  });
}

function describeCertificate(certificate: MergeCertificate): string {
  const { layers, relativeFrobenius, fractionRoundedAway, maxAbs, dtype } = certificate;
  const percent = (share: number) => `${(100 * share).toPrecision(2)} %`;
  return `${layers.length} layers in ${dtype}: ${percent(relativeFrobenius)} of the change lost, ` +
    `${percent(fractionRoundedAway)} of the changed weights as they were, ` +
    `largest error ${maxAbs.toExponential(1)}\n`;
}

async function refuseExisting({ out, overwrite }: MergeFlags): Promise<void> {
  if (overwrite) return;
  const found = await Array.fromAsync(Deno.readDir(out), (entry) => entry.name).catch(() => []);
  if (found.length === 0) return;
  throw new ValueError(
    "OUT_EXISTS",
    `${out} exists and is not empty. Choose another folder, or use --overwrite.`,
    { out },
  );
}

async function folderSize(folder: string): Promise<number> {
  let size = 0;
  for await (const entry of Deno.readDir(folder)) {
    if (entry.isFile) size += (await Deno.stat(`${folder}/${entry.name}`)).size;
  }
  return size;
}
