import { limits } from '#contracts';

/** A price exactly as it is written: 0.085 is 85 with 3 decimals. */
export interface Price {
  digits: bigint;
  decimals: number;
}

const decimal = /^([+-]?)(?:(\d{1,15})(?:\.(\d{0,15}))?|\.(\d{1,15}))$/;

/** Reads `2.55`, `.5`, `-11062.06`; undefined for anything that is not a plain decimal number. */
export const parsePrice = (text: string): Price | undefined => {
  const match = decimal.exec(text);
  if (match === null) return undefined;
  const [, sign, whole = '0', fraction = '', bareFraction = ''] = match;
  const decimals = fraction + bareFraction;
  const digits = BigInt(whole + decimals);
  return { digits: sign === '-' ? -digits : digits, decimals: decimals.length };
};

/** Divides and rounds half away from zero, exactly. */
const divideRounded = (dividend: bigint, divisor: bigint): bigint => {
  const magnitude = dividend < 0n ? -dividend : dividend;
  const rounded = (2n * magnitude + divisor) / (2n * divisor);
  return dividend < 0n ? -rounded : rounded;
};

const penceOf = (price: Price, quantity: bigint): bigint =>
  divideRounded(price.digits * quantity * 100n, 10n ** BigInt(price.decimals));

/** The amount of a line, rounded once to pence; undefined if the number would not be exact (2^53 and above). */
export const lineAmountMinor = (price: Price, quantity: number): number | undefined => {
  const pence = penceOf(price, BigInt(quantity));
  return pence <= BigInt(Number.MAX_SAFE_INTEGER) && pence >= BigInt(Number.MIN_SAFE_INTEGER)
    ? Number(pence)
    : undefined;
};

/** The price to the nearest penny, for the catalogue. */
export const nearestPence = (price: Price): number => Number(penceOf(price, 1n));

/** The price rounded up to the next penny, for an order; the excess is given back as a discount. */
export const penceRoundedUp = (price: Price): number => {
  const scale = 10n ** BigInt(price.decimals);
  const pence = price.digits * 100n;
  const floor = pence / scale;
  return Number(pence % scale > 0n ? floor + 1n : floor);
};

export const isNegative = (price: Price): boolean => price.digits < 0n;

/** Whether the price is within the limit of the API. */
export const isWithinLimit = (price: Price): boolean => penceRoundedUp(price) <= limits.unitPriceMinor;

/** The part of an amount for the units from `from` to `to` of `units`. Adjacent parts always add up to the exact amount. */
export const partOfAmount = (amountMinor: number, units: number, from: number, to: number): number => {
  const upTo = (unit: number): bigint => divideRounded(BigInt(amountMinor) * BigInt(unit), BigInt(units));
  return Number(upTo(to) - upTo(from));
};

/** Pence as text: -123450 is `-£1,234.50`. */
export const asPounds = (minor: number): string => {
  const magnitude = Math.abs(minor);
  const pounds = Math.trunc(magnitude / 100).toLocaleString('en-GB');
  return `${minor < 0 ? '-' : ''}£${pounds}.${String(magnitude % 100).padStart(2, '0')}`;
};
