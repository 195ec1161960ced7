plugins {
    alias(libs.plugins.android.application)
}

// The bundle that the Python package ships.
val bundle by tasks.registering(Sync::class) {
    from(rootDir.resolve("../src/dgemma/bundles/tiny.dgemma"))
    into(layout.buildDirectory.dir("bundle/tiny.dgemma"))
}

// libdgemma_experts.so, which bundles of quantized mixtures of experts need: gradle -Pexperts, with the NDK and CMake.
val experts = providers.gradleProperty("experts").isPresent

// Qualcomm's libraries, which run bundles on a Snapdragon's NPU: gradle -Pqnn. Their versions must be those that a bundle needs.
val qnn = providers.gradleProperty("qnn").isPresent

android {
    namespace = "org.dgemma.demo"
    compileSdk = 35

    defaultConfig {
        applicationId = "org.dgemma.demo"
        minSdk = 26
        targetSdk = 35
        versionCode = 1
        versionName = "0.1.0"

        if (experts) {
            ndk { abiFilters += "arm64-v8a" }
            externalNativeBuild { cmake { arguments += "-DANDROID_STL=c++_static" } }
        }
    }

    if (qnn) {
        defaultConfig { ndk { abiFilters += "arm64-v8a" } }
        packaging { jniLibs { useLegacyPackaging = true } } // the library finds them as files
        buildTypes.forEach { sourceSets.getByName(it.name).manifest.srcFile("src/qnn/AndroidManifest.xml") }
    }

    if (experts) {
        externalNativeBuild { cmake { path = rootDir.resolve("../runtime/native/onnx/CMakeLists.txt") } }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }

    androidResources {
        noCompress += listOf("bin", "onnx")
    }

    sourceSets.getByName("main").assets.srcDir(layout.buildDirectory.dir("bundle"))
}

tasks.named("preBuild") {
    dependsOn(bundle)
}

dependencies {
    implementation(project(":runtime"))
    implementation(libs.onnxruntime.android)
    compileOnly(libs.jspecify)
    if (qnn) {
        implementation(libs.onnxruntime.android.qnn)
        implementation(libs.qnn.runtime)
    }
    // ExecuTorch instead, or as well; its methods have not been tried with this library on a device:
    // implementation(libs.executorch.android)
}
