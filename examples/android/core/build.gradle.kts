plugins {
    alias(libs.plugins.kotlin.jvm)
}

kotlin {
    jvmToolchain(17)
    compilerOptions {
        allWarningsAsErrors = true
    }
}

dependencies {
    testImplementation(libs.junit)
}

tasks.test {
    // The cases on which all languages must agree lie in the exporter's repository, around this project.
    val vectors = rootDir.resolve("../../tests/vectors")
    inputs.dir(vectors)
    systemProperty("vectors", vectors.path)
}
