package org.example.guardedchat.core.bundle

/** What can be wrong with a bundle, in the words that the exporter and the other apps use as well (docs/bundle.md). */
class BundleProblem private constructor(
    message: String,
) : Exception(message) {
    companion object {
        fun missing() = BundleProblem("bundle.json is missing")

        fun archive() = BundleProblem("the archive cannot be read")

        fun invalid(where: String) = BundleProblem("bundle.json is not valid: $where")

        fun schema(
            found: Long,
            expected: Long,
        ) = BundleProblem("bundle schema $found is not supported, this reader knows schema $expected")

        fun fileMissing(path: String) = BundleProblem("$path is missing from the bundle")

        fun fileChanged(path: String) = BundleProblem("$path is not the file that was bundled")

        fun runtime(
            name: String,
            expected: String,
            found: String,
        ) = BundleProblem("the bundle needs $name $expected, here is $found")

        fun goldenMissing() = BundleProblem("the bundle has no golden answers")

        fun goldenDiffers(number: Int) =
            BundleProblem("golden answer $number differs: this runtime does not compute what was proved")
    }
}
