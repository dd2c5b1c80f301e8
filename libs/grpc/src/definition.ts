import {
  fromJSON,
  loadFileDescriptorSetFromBuffer,
  type MessageTypeDefinition,
  type PackageDefinition,
  type ServiceDefinition,
} from '@grpc/proto-loader';
import type { Scope } from '#contracts';
import { invalidRequest } from './invalid-request.js';

/** A gRPC service. */
export interface GrpcService {
  /** The scope that a caller needs, by method name. */
  scopes: Record<string, Scope>;
  /** The package of its `.proto`. */
  package: string;
  /** Its name within the package. */
  name: string;
  /** Its `.proto` with imports: a google.protobuf.FileDescriptorSet in base64. */
  descriptors: string;
}

/**
 * Field names as in the `.proto`, 64-bit integers as decimal strings, enums by name. Fields that were not sent stay
 * undefined, so that a schema can tell that they are missing.
 */
const options = { keepCase: true, longs: String, enums: String } as const;

/** Message types from their JSON description for protobufjs, by name. */
export const messagesIn = (json: object): Record<string, MessageTypeDefinition<object, object>> =>
  fromJSON(json, options) as Record<string, MessageTypeDefinition<object, object>>;

const { FileDescriptorSet } = messagesIn({
  // Declared as bytes, which an embedded message is on the wire.
  nested: { FileDescriptorSet: { fields: { file: { rule: 'repeated', type: 'bytes', id: 1 } } } },
});

/** The files of a FileDescriptorSet in base64, for reflection: those of proto-loader lack the imports between them. */
export const filesIn = (descriptors: string): Buffer[] =>
  (FileDescriptorSet!.deserialize(Buffer.from(descriptors, 'base64')) as { file: Buffer[] }).file;

/**
 * The definition of a service, whose handlers get a CleaveError in place of a request that cannot be decoded; grpc-js would
 * report that as an internal error.
 */
export const definitionOf = ({
  package: name,
  descriptors,
  name: service,
}: Omit<GrpcService, 'scopes'>): PackageDefinition => {
  const definition = loadFileDescriptorSetFromBuffer(Buffer.from(descriptors, 'base64'), options);
  const methods = definition[`${name}.${service}`] as ServiceDefinition | undefined;
  if (!methods) throw new Error(`The descriptors of ${name} have no service ${service}.`);
  for (const method of Object.values(methods)) {
    const read = method.requestDeserialize;
    method.requestDeserialize = (bytes) => {
      try {
        return withoutReplacements(read(bytes), bytes);
      } catch {
        return invalidRequest([{ path: '', message: `must be a message that ${method.path} takes` }]);
      }
    };
  }
  return definition;
};

const replacement = '\ufffd';

/** Invalid UTF-8 is decoded to replacement characters: a request with more of them than were sent is refused. */
const withoutReplacements = (request: object, bytes: Buffer): object => {
  const read = occurrences(JSON.stringify(request), replacement);
  if (read === 0 || read <= occurrences(bytes.toString('latin1'), Buffer.from(replacement).toString('latin1')))
    return request;
  return invalidRequest([{ path: '', message: 'must contain only valid UTF-8 in its strings' }]);
};

const occurrences = (text: string, part: string): number => text.split(part).length - 1;
