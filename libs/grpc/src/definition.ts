import {
  fromJSON,
  loadFileDescriptorSetFromBuffer,
  type MessageTypeDefinition,
  type PackageDefinition,
  type ServiceDefinition,
} from '@grpc/proto-loader';
import type { Scope } from '#contracts';
import { invalidRequest } from './invalid-request.js';

/** A service that is answered over gRPC. */
export interface GrpcService {
  /** What a caller must be allowed to do, by the names of its methods. */
  scopes: Record<string, Scope>;
  /** The package of its `.proto`. */
  package: string;
  /** Its name within the package. */
  name: string;
  /** Its `.proto` and what that imports: a google.protobuf.FileDescriptorSet in base64. */
  descriptors: string;
}

/**
 * Names as they are written, 64-bit integers as decimal texts, enums by name. What was not sent is not there, so that a
 * schema can tell that it is missing.
 */
const options = { keepCase: true, longs: String, enums: String } as const;

/** The messages that protobufjs describes in JSON, by their names. */
export const messagesIn = (json: object): Record<string, MessageTypeDefinition<object, object>> =>
  fromJSON(json, options) as Record<string, MessageTypeDefinition<object, object>>;

const { FileDescriptorSet } = messagesIn({
  // On the wire a message within another is bytes.
  nested: { FileDescriptorSet: { fields: { file: { rule: 'repeated', type: 'bytes', id: 1 } } } },
});

/** The files of a FileDescriptorSet in base64, as reflection tells them: those of proto-loader leave out what imports what. */
export const filesIn = (descriptors: string): Buffer[] =>
  (FileDescriptorSet!.deserialize(Buffer.from(descriptors, 'base64')) as { file: Buffer[] }).file;

/**
 * The definition of a service whose handlers get a CleaveError for a request that cannot be read. Otherwise that would
 * be answered as an error of the server.
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

/** What is not UTF-8 is read with replacement characters in its place: more of them than were sent tell of it. */
const withoutReplacements = (request: object, bytes: Buffer): object => {
  const read = occurrences(JSON.stringify(request), replacement);
  if (read === 0 || read <= occurrences(bytes.toString('latin1'), Buffer.from(replacement).toString('latin1')))
    return request;
  return invalidRequest([{ path: '', message: 'must contain only valid UTF-8 in its strings' }]);
};

const occurrences = (text: string, part: string): number => text.split(part).length - 1;
