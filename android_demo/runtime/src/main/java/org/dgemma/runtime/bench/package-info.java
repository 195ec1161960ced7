/** What a bundle costs on this device: the protocol of {@code dgemma bench}, as far as one process can follow it. */
@NullMarked
package org.dgemma.runtime.bench;

import org.jspecify.annotations.NullMarked;
