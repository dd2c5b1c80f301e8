/** `npm run test:cluster` says so: these servers take minutes to fail over, and packages that not everybody has. */
export const onClusters = 'clusters' in globalThis;
