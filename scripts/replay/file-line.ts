import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { createGunzip } from 'node:zlib';
import { pipeline } from 'node:stream';
import { CsvError, parse } from 'csv-parse';
import { limits } from '#contracts';
import { isWithinLimit, lineAmountMinor, parsePrice, type Price } from './money.js';

/** A line of the file. Fields that cannot be read are undefined, and `fault` says why. */
export interface FileLine {
  /** Its position in the file, from 1; the header is line 1. */
  number: number;
  invoice: string;
  product: string | undefined;
  description: string;
  quantity: number | undefined;
  price: Price | undefined;
  /** Quantity times price, rounded once; 0 where it cannot be computed. */
  amountMinor: number;
  /** Empty when the file names none. */
  customer: string;
  /** Milliseconds since 1970, taking the file's clock as UTC; undefined when the date cannot be read. */
  at: number | undefined;
  fault: string | undefined;
}

/** The file cannot be replayed at all. The message says why, and what is expected. */
export class UnusableFile extends Error {
  override readonly name = 'UnusableFile';
}

const columns = [
  'InvoiceNo',
  'StockCode',
  'Description',
  'Quantity',
  'InvoiceDate',
  'UnitPrice',
  'CustomerID',
] as const;
type Column = (typeof columns)[number];

/** Keys contain one or two invoice numbers and travel in an HTTP header, so these must be short and visible ASCII. */
const invoiceNumber = /^[\x21-\x7e]{1,64}$/;
const wholeNumber = /^[+-]?\d{1,12}$/;
const isoMoment = /^(\d{4})-(\d{1,2})-(\d{1,2})[ T](\d{1,2}):(\d{2})(?::(\d{2}))?/;
const usMoment = /^(\d{1,2})\/(\d{1,2})\/(\d{4}) (\d{1,2}):(\d{2})(?::(\d{2}))?/;

const isStorable = (text: string): boolean => !text.includes('\0') && text.isWellFormed();

const momentOf = (text: string): number | undefined => {
  const iso = isoMoment.exec(text);
  if (iso) return Date.UTC(+iso[1]!, +iso[2]! - 1, +iso[3]!, +iso[4]!, +iso[5]!, +(iso[6] ?? 0));
  const us = usMoment.exec(text);
  if (us) return Date.UTC(+us[3]!, +us[1]! - 1, +us[2]!, +us[4]!, +us[5]!, +(us[6] ?? 0));
  return undefined;
};

/** Exports of a float column turn customer 17850 into `17850.0`. */
const customerOf = (text: string): string => /^(\d+)\.0+$/.exec(text)?.[1] ?? text;

const quoted = (text: string): string => JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}…` : text);

const faultOf = (line: FileLine, texts: Record<Column, string>, fields: number, width: number): string | undefined => {
  if (fields !== width) return `it has ${fields} fields, the header has ${width}`;
  if (!invoiceNumber.test(line.invoice))
    return `InvoiceNo ${quoted(line.invoice)} is not a number of 1 to 64 visible ASCII characters`;
  if (line.product === undefined)
    return `StockCode ${quoted(texts.StockCode)} is not a code of 1 to ${limits.idLength} characters`;
  if (line.quantity === undefined) return `Quantity ${quoted(texts.Quantity)} is not an integer`;
  if (line.price === undefined) return `UnitPrice ${quoted(texts.UnitPrice)} is not a decimal number`;
  if (!isWithinLimit(line.price)) return `UnitPrice ${texts.UnitPrice} is too large for an order`;
  if (lineAmountMinor(line.price, line.quantity) === undefined) return 'its amount is 2^53 pence or more';
  if (line.customer.length > limits.idLength || !isStorable(line.customer))
    return `CustomerID ${quoted(line.customer)} is not an id of at most ${limits.idLength} characters`;
  return undefined;
};

/** Parses one record of the file from the texts of its columns. */
const fileLine = (number: number, texts: Record<Column, string>, fields: number, width: number): FileLine => {
  const product = texts.StockCode.trim();
  const quantity = texts.Quantity.trim();
  const price = parsePrice(texts.UnitPrice.trim());
  const line: FileLine = {
    number,
    invoice: texts.InvoiceNo.trim(),
    product: product !== '' && product.length <= limits.idLength && isStorable(product) ? product : undefined,
    description: texts.Description,
    quantity: wholeNumber.test(quantity) ? Number(quantity) : undefined,
    price,
    amountMinor: 0,
    customer: customerOf(texts.CustomerID.trim()),
    at: momentOf(texts.InvoiceDate.trim()),
    fault: undefined,
  };
  if (line.quantity !== undefined && price !== undefined) line.amountMinor = lineAmountMinor(price, line.quantity) ?? 0;
  line.fault = faultOf(line, texts, fields, width);
  // Shifted fields say nothing about product, price or amount.
  return fields > width ? { ...line, product: undefined, quantity: undefined, price: undefined, amountMinor: 0 } : line;
};

const positionsOf = (header: string[], file: string): Record<Column, number> => {
  const names = header.map((name) => name.trim());
  const missing = columns.filter((column) => !names.includes(column));
  if (missing.length > 0)
    throw new UnusableFile(
      `${file} lacks the column${missing.length > 1 ? 's' : ''} ${missing.join(', ')}. ` +
        `Its first line must name the columns of the Online Retail format: ${columns.join(',')},Country`,
    );
  return Object.fromEntries(columns.map((column) => [column, names.indexOf(column)])) as Record<Column, number>;
};

const isGzip = async (file: string): Promise<boolean> => {
  const handle = await open(file);
  try {
    const { bytesRead, buffer } = await handle.read(Buffer.alloc(2), 0, 2, 0);
    return bytesRead === 2 && buffer[0] === 0x1f && buffer[1] === 0x8b;
  } finally {
    await handle.close();
  }
};

const explained = (error: unknown, file: string): unknown => {
  if (error instanceof CsvError) return new UnusableFile(`${file} is not readable as CSV: ${error.message}`);
  const code = (error as NodeJS.ErrnoException | undefined)?.code ?? '';
  if (code === 'ENOENT') return new UnusableFile(`There is no file ${file}`);
  if (code === 'EISDIR') return new UnusableFile(`${file} is a directory, not a file`);
  if (code === 'EACCES') return new UnusableFile(`This user has no permission to read ${file}`);
  if (code.startsWith('Z_')) return new UnusableFile(`${file} is damaged: ${(error as Error).message}`);
  return error;
};

/**
 * Reads a file of the Online Retail format, packed with gzip or not.
 *
 * @throws UnusableFile when there is no such file, a column is missing, or it is not CSV at all
 */
export async function* readFileLines(file: string): AsyncGenerator<FileLine> {
  try {
    const options = { bom: true, relax_quotes: true, relax_column_count: true, skip_empty_lines: true, info: true };
    const parser = parse({ ...options, record_delimiter: ['\r\n', '\n'], max_record_size: 1_000_000 });
    // The parser is read below and reports the failure of any of the streams.
    const packed = await isGzip(file);
    const reported = (): void => undefined;
    if (packed) pipeline(createReadStream(file), createGunzip(), parser, reported);
    else pipeline(createReadStream(file), parser, reported);
    let positions: Record<Column, number> | undefined;
    let width = 0;
    for await (const { record, info } of parser as AsyncIterable<{ record: string[]; info: { lines: number } }>) {
      if (positions === undefined) {
        positions = positionsOf(record, file);
        width = record.length;
        continue;
      }
      const at = positions;
      const texts = Object.fromEntries(columns.map((column) => [column, record[at[column]] ?? ''])) as Record<
        Column,
        string
      >;
      yield fileLine(info.lines, texts, record.length, width);
    }
    if (positions === undefined) throw new UnusableFile(`${file} is empty: it does not even have a header`);
  } catch (error) {
    throw explained(error, file);
  }
}
