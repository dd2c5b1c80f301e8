// Checked before anything else: other modules use features that an older Node lacks already while they are loaded, and the
// resulting error would not help anyone.
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 22 || (major === 22 && minor < 12)) {
  process.stderr.write(
    `Cleave runs on Node 22.12 or later; this is ${process.versions.node}. ` +
      'Put `npx` in front: `npx node …` runs the Node 24 that npm installed. On Apple silicon, install Node yourself.\n',
  );
  process.exit(1);
}
