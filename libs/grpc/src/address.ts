import { z } from 'zod';

const message = 'must be host:port such as 127.0.0.1:5001 (an IPv6 host in brackets)';

/** The address to answer gRPC at: `host:port`. */
export const grpcAddress = z
  .string(message)
  .regex(/^(?:\[[0-9a-f:.]+\]|[^\s:/?#@[\],]+):\d{1,5}$/i, message)
  .refine((text) => Number(text.slice(text.lastIndexOf(':') + 1)) <= 65_535, message);
