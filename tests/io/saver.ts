/**
 * A process that saves groups of files again and again: `saver.ts <folder> <name> [rounds]`. The two
 * files of a round say the same.
 *
 * @module
 */
import { join } from "node:path";
import { writeFilesAtomic } from "../../lib/io/atomic-files.ts";

const [folder, name, rounds = "Infinity"] = Deno.args;
for (let round = 0; round < Number(rounds); round++) {
  const says = `${name} ${round} `.repeat(1 + round % 7 * 500);
  const files = ["adapter_config.json", "adapter_model.safetensors"].map((file) => ({
    path: join(folder, file),
    write: (staged: string) => Deno.writeTextFile(staged, says),
  }));
  await writeFilesAtomic(files);
  if (round === 0) console.log("saving");
}
