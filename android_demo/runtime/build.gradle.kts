plugins {
    `java-library`
}

java {
    sourceCompatibility = JavaVersion.VERSION_1_8
    targetCompatibility = JavaVersion.VERSION_1_8
}

// The host brings the engine; tests run under Maven.
dependencies {
    api(project(":tokenizers"))
    compileOnly(libs.onnxruntime)
    compileOnly(project(":executorch-stubs"))
    compileOnly(libs.jspecify)
}
