/**
 * The alphabet in which byte-level tokenizers spell.
 *
 * @module
 */

/**
 * GPT-2's alphabet: a printable character for each byte. Bytes that are printable in Latin-1 stand
 * for themselves, the others follow from U+0100 on.
 */
export function byteAlphabet(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = byte > 0x20 && byte < 0x7f || byte > 0xa0 && byte !== 0xad;
    return String.fromCharCode(printable ? byte : next++);
  });
}
